#!/bin/bash
# The usual tools, in pipes: sorting, searching, compression, digests.
# shell.sh LINES
seq 1 "$1" | awk '{
    printf "%d %s %.6f %x\n", $1 * 7919 % 10007, substr("abcdefghijklmnop", $1 % 13 + 1, 3), $1 / 7, $1 * 77
}' >data
sum() {
    echo "$1: $(sha256sum | cut -c 1-40)"
}
sum data <data
sort data | sum sort
sort -n -k1,1 -k3,3 data | uniq -c -w 4 | sum "sort -n | uniq"
sort -k2,2 data | head -n 60 >first
sort -k2,2 data | sed -n 31,90p | join -j 2 -o 1.1,2.3,0 first - | sum join
grep -E '(ab|cd)c? [0-9]+\.1' data | sum grep
grep -c -P '(\d)\1(?=\.)' data
sed -E 's/([a-p]+) ([0-9]+)/\2-\1/; y/abc/XYZ/; /7$/d' data | sum sed
tr a-p A-P <data | cut -d ' ' -f 2- | rev | tac | paste - - | fold -w 50 | sum "tr cut rev tac paste fold"
awk '{ n[$2] += $1; s += sqrt($3) * sin($1) }
    END { for (k in n) print k, n[k] | "sort"; close("sort"); printf "%.9f\n", s }' data | sum awk
for tool in gzip bzip2 xz; do
    $tool -k data
    $tool -dc data.* | cmp - data &&
        echo "$tool: $(wc -c <"$(ls data.*)") $(tail -c +11 data.* | sha256sum | cut -c 1-40)"
    rm data.*
done
for tool in md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum; do
    echo "$tool $($tool <data)"
done
base64 data | base64 -d | cmp - data && echo base64
split -l 100 data part. && cat part.* | cmp - data && echo split
diff <(sort data) <(sort -k2 data) | sum diff
od -A d -t x2z -v data | sum od
shuf --random-source=data data | sum shuf
factor 1000000007 18446744073709551557 600851475143 1234567890123456789
expr 12345678901234567890123 \* 98765432109876543210987 2>/dev/null || expr 123456789 \* 987654321
n=0
for ((i = 0; i < 20 * $1 / 10; i++)); do
    n=$(((n * 31 + i ^ n >> 3) % 1000003))
    case $n in *7) text="${text: -40}$n" ;; esac
done
echo "bash $n $text"
for i in 1 2 3 4 5 6 7 8; do
    (exec sh -c "exit $i")
    echo -n "$? "
done
mkfifo pipe
(cat data >pipe &)
sum fifo <pipe
