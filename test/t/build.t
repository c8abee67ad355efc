#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a packager or somebody with a fresh clone relies on: the static
# binary, the dynamic build, install and uninstall. Works on what is in the
# archive that `make dist` makes.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
top=$(pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

max=$((160 * 1024))	# bytes that the stripped binary may have

files() {
	find . -type f | sort
}

### the static binary

dynamic=$(readelf -ld prhelper)
like "$(readelf -h prhelper)" '*Type:*DYN*' \
	'the binary is relocatable'
ok 'no interpreter' test "${dynamic#*INTERP}" = "$dynamic"
ok 'no shared object' test "${dynamic#*NEEDED}" = "$dynamic"
like "$dynamic" '*GNU_RELRO*' 'relocations are read-only'
strip -o "$tmp/stripped" prhelper
size=$(wc -c <"$tmp/stripped")
ok "stripped $size bytes, at most $max" test "$size" -le "$max"
# The kernel may back 2 MB of it with a huge page, resident as a whole.
data=$(size prhelper | awk 'NR == 2 { print $2 + $3 }')
ok "$data bytes of data, less than a huge page" test "$data" -lt 2097152

### it needs nothing but /dev/null: no library, neither /proc nor /sys

mkdir -p "$tmp/root/dev"
mknod -m 666 "$tmp/root/dev/null" c 1 3
cp prhelper "$tmp/root"
make -s -C test prc
chroot "$tmp/root" /prhelper -k /sock -f /pid &
pid=$!
served() {
	[ "$(test/prc "$tmp/root/sock" /dev/null 5e 2>/dev/null)" = \
		'02 5/20/00 -' ]
}
ok 'serves alone in an empty root' within 10 served
kill $pid
wait $pid && status=0 || status=$?
is "$status" 0 'and ends well'

### building

ok 'make dist' quietly make dist
mv prhelper-*.tar.gz "$tmp"
tar -xzf "$tmp"/prhelper-*.tar.gz -C "$tmp"
cd "$tmp"/prhelper-*/
before=$(files)
out=$(make 2>&1) && status=0 || status=$?
ok 'without libdevmapper make fails' test "$status" -ne 0
like "$out" '*libdm/libdevmapper.a is missing: run*make libdm*' \
	'and says what to do'
is "$(find . -name '*.o')" '' 'before it has compiled anything'

out=$(make CC=gcc LDFLAGS= LIBS=-ldevmapper 2>&1) || :
ok 'the dynamic build works' test -x prhelper
is "$(echo "$out" | grep -i warning)" '' 'without a warning'
like "$(readelf -d prhelper)" '*NEEDED*libdevmapper*' \
	'against the libdevmapper of the system'
ok 'and runs' quietly ./prhelper -V
quietly make clean
is "$(files)" "$before" 'make clean leaves nothing of it'

# A second `make libdm` asks nobody: here apt-get would be seen.
mkdir "$tmp/bin"
cat >"$tmp/bin/apt-get" <<END
#!/bin/sh
: >$tmp/fetched
exit 1
END
chmod 755 "$tmp/bin/apt-get"
ok 'a second make libdm succeeds' \
	quietly env PATH="$tmp/bin:$PATH" make libdm LIBDM="$top/libdm"
ok 'and fetches nothing' test ! -e "$tmp/fetched"

mkdir "$tmp/bad"
echo 'no archive' >"$tmp/bad/lvm2_9.9.orig.tar.xz"
quietly make clean
out=$(sh libdm.sh "$tmp/bad" 9.9-1 0000 2>&1) && status=0 || status=$?
ok 'an archive with another checksum is not used' test "$status" -ne 0
like "$out" '*wrong checksum*' 'and the message says so'

ok 'the static build works' quietly make LIBDM="$top/libdm"
is "$(grep -i warning "$tmp/out")" '' 'without a warning'

### install, uninstall

dest=$tmp/dest
ok 'make install' quietly make install LIBDM="$top/libdm" DESTDIR="$dest" \
	PREFIX=/usr MANPREFIX=/usr/share/man
is "$(cd "$dest" && find . ! -type d | sort | tr '\n' ' ')" \
	'./usr/bin/prhelper ./usr/bin/qemu-pr-helper '\
'./usr/share/man/man8/prhelper.8 ./usr/share/man/man8/qemu-pr-helper.8 ' \
	'installs binary and manual under both names'
ok 'the other name runs' quietly "$dest/usr/bin/qemu-pr-helper" -V
ok 'the other manual is there' test -s \
	"$dest/usr/share/man/man8/qemu-pr-helper.8"
is "$(grep /usr/local "$dest/usr/share/man/man8/prhelper.8")" '' \
	'and names the binary where it is'
ok 'make install-apparmor' quietly make install-apparmor DESTDIR="$dest"
ok 'the profile is where AppArmor looks' test -s \
	"$dest/etc/apparmor.d/prhelper"
ok 'hooks for an initramfs' quietly make install-initramfs-tools \
	install-dracut install-mkinitcpio DESTDIR="$dest" PREFIX=/usr
is "$(grep -rl /usr/local "$dest"/etc "$dest"/usr/lib)" '' \
	'... which have PREFIX'
quietly make uninstall DESTDIR="$dest" PREFIX=/usr MANPREFIX=/usr/share/man
is "$(find "$dest" ! -type d)" '' 'make uninstall removes all of it'

# Services of init systems
for init in systemd openrc runit s6 sysvinit; do
	quietly make install-$init DESTDIR="$dest" PREFIX=/usr
	ok "make install-$init: what it runs is where it was installed" \
		grep -rq /usr/bin/prhelper "$dest"
	is "$(grep -r /usr/local "$dest")" '' '... and nowhere else'
	quietly make uninstall DESTDIR="$dest" PREFIX=/usr
	is "$(find "$dest" ! -type d)" '' 'make uninstall removes all of it'
done
mkdir -p "$dest/etc/conf.d"
echo group=disk >"$dest/etc/conf.d/prhelper"
quietly make install-openrc DESTDIR="$dest"
is "$(cat "$dest/etc/conf.d/prhelper")" group=disk \
	"make install-openrc leaves an administrator's settings alone"

done_testing
