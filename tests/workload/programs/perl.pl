# Perl at work: a line a part, with what it computed.
use strict;
use warnings;
use List::Util qw(sum reduce shuffle first max);
use POSIX qw(floor fmod strtol);
use Scalar::Util qw(blessed weaken);

my $scale = $ARGV[0];

# A sum over text, in integers that stay exact.
sub digest {
    my ($h, $g) = (5381, 1);
    for my $text (@_) {
        for my $c (unpack 'C*', $text) {
            $h = ($h * 33 + $c) % 4294967291;
            $g = ($g ^ $h) * 3 & 0xffffffff;
        }
    }
    return sprintf '%08x%08x', $h, $g;
}

my %part = (
    '01 strings' => sub {
        my $s = '';
        for my $i (1 .. 1500 * $scale) {
            $s .= chr(97 + $i * 7 % 26) x ($i % 5);
            $s = reverse substr $s, 3 if $i % 100 == 0;
            substr($s, $i % 50, 2) = sprintf '%02x', $i % 256;
        }
        (my $t = $s) =~ tr/a-m/N-Z/;
        return length($s), digest($s, $t, uc $s, lcfirst $t, join ',', map { index $s, $_ } 'a' .. 'k');
    },
    '02 hashes' => sub {
        my %h;
        for my $i (0 .. 5000 * $scale) {
            $h{'k' . $i * 7919 % 2003}{$i % 7} += $i;
            delete $h{'k' . $i % 50} if $i % 11 == 0;
        }
        return scalar(keys %h), digest(map { my $k = $_; map { "$k$_$h{$k}{$_}" } sort keys %{$h{$k}} } sort keys %h);
    },
    '03 sorting' => sub {
        my @v = map { $_ * 2654435761 % 65537 } 1 .. 4000 * $scale;
        my @byvalue = sort { $a <=> $b } @v;
        my @byname = sort map { "n$_" } @v;
        my @reverse = reverse sort { $a % 100 <=> $b % 100 || $a <=> $b } @v;
        return digest("@byvalue"), digest("@byname"), digest("@reverse");
    },
    '04 regular expressions' => sub {
        my $text = join ' ', map { sprintf 'user%d@host%d.example %.3f <tag%d>(%s)</tag%d>', $_, $_ % 17, $_ / 7, $_ % 9,
            '(' x ($_ % 4) . 'x' . ')' x ($_ % 4), $_ % 9 } 1 .. 250 * $scale;
        my @mail = $text =~ /(\w+)\@(host\d+)/g;
        my $n = () = $text =~ /(\d)\1/g;
        my $nested = qr/(\((?:[^()]++|(?-1))*+\))/;
        my @nest = $text =~ /$nested/g;
        (my $swap = $text) =~ s/<(tag\d)>(.*?)<\/\1>/[$2$1]/g;
        (my $calc = $text) =~ s/(\d+\.\d+)/sprintf '%.2f', $1 * 3/ge;
        my @split = split /(?<=\d)\s+(?=<)/, $text;
        return scalar(@mail), $n, digest("@nest"), digest($swap), digest($calc), scalar(@split);
    },
    '05 numbers' => sub {
        my ($x, @out) = (0.5);
        for my $i (1 .. 1500 * $scale) {
            $x = 3.77 * $x * (1 - $x);
            push @out, sprintf '%.15g %e %d %x %.3f', $x, $x / 1e9, $x * 1e15, $x * 4e9, sin($i) * exp(-$i / 500) + atan2($i, 3);
            push @out, $i ** 0.37, sqrt($i), log($i), int(-$i / 7), $i % 13, -$i % 13, $i << ($i % 40), 281474976710655 >> $i % 48;
        }
        return digest("@out"), floor(-2.5), fmod(7.5, 2), 2 ** 0.5, 1e15 / 3, 9007199254740993, 0.1 + 0.2, 1e308 * 10, (strtol('7f', 16))[0];
    },
    '06 packing' => sub {
        my @out;
        for my $i (1 .. 800 * $scale) {
            my $packed = pack 'NnCvVQ>d<fa5wZ*', $i * 77777 % 2 ** 32, $i, $i & 255, $i * 3 & 65535, $i, $i * 1e9, $i / 3, $i / 4, "t$i", $i * 1000, "z$i";
            push @out, unpack('H*', $packed), unpack 'NnCvVQ>d<fa5wZ*', $packed;
        }
        return digest(@out), unpack('%32C*', join '', @out);
    },
    '07 closures and objects' => sub {
        my @add = map { my $n = $_; sub { $n += shift } } 1 .. 50;
        my $t = 0;
        for my $i (1 .. 4000 * $scale) { $t += $add[$i % 50]->($i % 7) }
        my $object = bless { n => 1 }, 'Thing';
        $object->grow($_) for 1 .. 2000 * $scale;
        my $caught = join ',', map { eval { die "no $_\n" if $_ % 2; $_ } // $@ } 1 .. 4;
        $caught =~ s/\n//g;
        return $t, $object->{n}, $caught, (reduce { ($a * 31 + $b) % 65521 } 1 .. 1000), first { $_ * $_ > 500 } 1 .. 100;
    },
    '08 text' => sub {
        my ($buffer, $lines, %seen) = ('', 0);
        for my $i (1 .. 500 * $scale) { $buffer .= sprintf "%-10s|%5d|%s\n", "row$i", $i * 3, join ',', map { $_ * $i } 1 .. $i % 5 }
        open my $out, '>', 'text' or die;
        print $out $buffer;
        close $out;
        open my $in, '<', 'text' or die;
        while (<$in>) { chomp; my @f = split /\|/; $lines++; $seen{length $f[2]}++ if defined $f[2] }
        return $lines, digest($buffer), map { "$_=$seen{$_}" } sort { $a <=> $b } keys %seen;
    },
    '09 processes' => sub {
        my @said;
        for my $i (1 .. 6) {
            my $pid = open my $pipe, '-|';
            if (!$pid) { print "child $i ", $i ** 7, "\n"; exit $i }
            push @said, <$pipe>;
            close $pipe;
            push @said, $? >> 8;
        }
        my $shell = `seq 1 1000 | sort -r | head -n 3`;
        return digest(@said), split /\n/, $shell;
    },
);

sub Thing::grow { my ($self, $by) = @_; $self->{n} = ($self->{n} * 5 + $by) % 1000003 }

$| = 1;
for my $name (sort keys %part) {
    print "$name: ", join(' ', $part{$name}->()), "\n";
}
