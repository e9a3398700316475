#!/bin/bash
# SQLite at work: the same queries in a database in memory and in a file, with and without an index.
# sqlite.sh ROWS
rows=$1

cat >schema.sql <<SQL
.bail on
create table item(id integer primary key, name text not null, price real, tag integer, note text);
create table sale(id integer primary key, item integer references item(id), day integer, amount integer);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < $rows)
insert into item select i, printf('item %05d', i * 7919 % 100003), i * 1.0 / 7, i % 23,
    substr('the quick brown fox jumps over the lazy dog', i % 40, 1 + i % 9) from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < $rows * 3)
insert into sale select i, 1 + i * 31 % $rows, i * 17 % 365, i * i % 101 from n;
commit;
SQL

cat >queries.sql <<'SQL'
select count(*), sum(price), avg(price), min(name), max(note), total(tag) from item;
select tag, count(*), round(sum(price), 6), group_concat(substr(name, 6, 2), '') from item where id < 500 group by tag order by tag;
select i.tag, s.day % 7, sum(s.amount), sum(s.amount * i.price) from sale s join item i on i.id = s.item group by 1, 2 order by 1, 2;
select name from item where name like '%123%' order by name limit 9;
select name, price from item where note glob '*f*x*' and price between 10 and 90 order by price desc limit 7;
select day, amount, sum(amount) over (order by day, id rows 5 preceding), rank() over (partition by day % 5 order by amount, id)
    from sale where id % 97 = 0 order by day, id limit 40;
with recursive fib(a, b, n) as (select 0, 1, 0 union all select b, a + b, n + 1 from fib where n < 80) select max(a), count(*) from fib;
with recursive m(x, y, zr, zi, n) as (
    select x.value / 12.0 - 2.0, y.value / 8.0 - 1.0, 0.0, 0.0, 0 from generate_series(0, 35) x, generate_series(0, 16) y
    union all select x, y, zr * zr - zi * zi + x, 2 * zr * zi + y, n + 1 from m where zr * zr + zi * zi < 4 and n < 20)
    select y, group_concat(substr(' .:-=+*#%@', 1 + most % 10, 1), '') from
    (select x, y, max(n) most from m group by x, y order by y, x) group by y;
select upper(note), length(note), hex(note), instr(note, 'o'), replace(note, 'o', '0'), trim(note, 'tdg') from item limit 12;
select json_extract(json_object('a', json_array(id, price, name)), '$.a[1]') from item limit 5;
select json_group_array(value) from (select value from json_each('[3,1,{"x":2.5e10},null,"\u00e9"]'));
select sum(a.amount) from sale a where a.id < 600 and exists (select 1 from sale b where b.day = a.day and b.amount > a.amount + 98);
select strftime('%Y-%m-%d %H:%M:%S', id * 1234567, 'unixepoch', '+3 months') from item limit 6;
select cast(price as text), typeof(price), price * 3, -price / 0.3, cast(price as integer) % 7, id << 40 >> 3, ~id from item limit 8;
select printf('%10.3f|%-8d|%x|%e|%q', price, id, id * 977, price, note) from item limit 6;
select tag from item except select day from sale where day > 10 intersect select id from item order by 1;
SQL

cat >changes.sql <<'SQL'
begin;
update item set price = price * 1.1 + tag where id % 3 = 0;
delete from sale where day % 11 = 4;
insert into sale select id + 1000000, item, day + 1, amount * 2 from sale where id % 5 = 0;
savepoint s;
delete from item;
rollback to s;
commit;
create trigger sold after insert on sale begin update item set tag = tag + new.amount where id = new.item; end;
insert into sale values(null, 5, 3, 70), (null, 6, 3, 71);
create virtual table words using fts5(note);
insert into words select note || ' ' || name from item;
select count(*) from words where words match 'fox OR qu*';
vacuum;
pragma integrity_check;
SQL

cat schema.sql queries.sql changes.sql queries.sql | sqlite3 :memory: >memory.out 2>&1
echo "in memory: status $?, $(wc -l <memory.out) lines, $(sha256sum <memory.out)"
cat schema.sql queries.sql | sqlite3 plain.db >file1.out 2>&1
echo "in a file: status $?, $(sha256sum <file1.out)"
(echo "create index sale_day on sale(day, amount); create index item_name on item(name); analyze;
    pragma journal_mode=wal;"
    cat changes.sql queries.sql) | sqlite3 plain.db >file2.out 2>&1
echo "with indices: status $?, $(sha256sum <file2.out)"
sqlite3 plain.db .dump >dump.sql
echo "dump: $(wc -l <dump.sql) lines, $(sha256sum <dump.sql)"
sqlite3 again.db <dump.sql
sqlite3 again.db .dump | cmp - dump.sql && echo "a database of the dump dumps the same"
head -n 30 memory.out
