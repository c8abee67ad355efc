#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The directory for the state: as another user, and where it is of no use.
# Then the helper says so, remembers as long as it lives, and harms nothing.

# shellcheck source=test/vm/lib.sh
. /lib.sh

without_alua
four_paths
dir=$socket.state

# works WHAT: a path misses a key and gets it when it returns
works() {
	fresh a
	offline "$p2"
	put '00 -' "$1: REGISTER another key" 0 0 a c
	returned "$p2" '1 b, 4 c'
}

# said PATTERN: of the state one line was said, and it is like this
said() {
	is "$(grep -c state /tmp/warnings)" 1 "$kind: ... one line is said"
	like "$(grep state /tmp/warnings)" "$1" "$kind: ... and it is $1"
	cat /tmp/warnings >&2
}

# of_no_use PATTERN [ARGUMENT]...: the helper works and says that
of_no_use() {
	pattern=$1
	shift
	ok "$kind: the helper serves" start_helper "$@" 2>/tmp/warnings
	works 'in memory only'
	stop_helper
	is $? 0 "$kind: exit status 0"
	said "$pattern"
}

kind='a usual one'
ok "$kind: the helper serves" start_helper 2>/tmp/warnings
works 'from the start'
is "$(stat -c '%a %u' $dir $dir/* | xargs)" '700 0 600 0' \
	"$kind: nobody else may look into it"
killed
file=$(echo $dir/*)
is "$(grep -c state /tmp/warnings)" 0 "$kind: nothing is said"

### What is in it is no good

# bad_file: what is in the file; the guest goes on nevertheless
bad_file() {
	start_helper -v 2>/tmp/warnings
	said "prhelper: state file ${file##*/}: not of ours and this boot"
	put '00 -' 'REGISTER another key' 0 0 c d
	copies_are '1 b, 4 d'
	put '00 -' 'REGISTER another key' 0 0 d c
	killed
}

kind='a file is cut off'
cp "$file" /tmp/whole
head -c 100 /tmp/whole >"$file"
bad_file
kind='a file is empty'
: >"$file"
bad_file
kind='a file is of another boot'
sed 's/^boot .*/boot 1-2-3/' /tmp/whole >"$file"
bad_file
kind='a file is of another user'
chown 1000 "$file"
bad_file
kind='a file is a symlink'
cp "$file" /tmp/elsewhere
sum=$(md5sum </tmp/elsewhere)
ln -sf /tmp/elsewhere "$file"
bad_file
is "$(md5sum </tmp/elsewhere)" "$sum" "$kind: what it leads to is as it was"
kind='a file that is none of ours'
echo hello >$dir/README
start_helper -v 2>/tmp/warnings
said 'prhelper: state file README: not of ours and this boot'
works 'beside it'
stop_helper
is "$(cat $dir/README)" hello "$kind: it is as it was"

### The directory is no good

kind='a directory of another user'
rm -r $dir
mkdir $dir
echo hello >$dir/README
chown 1000 $dir
of_no_use "prhelper: state directory $dir: *must be ours*: Operation not *"
is "$(ls $dir)" README "$kind: it is as it was"
kind='a directory that others may write to'
chown 0 $dir
chmod 777 $dir
of_no_use "prhelper: state directory $dir: *writable for nobody else*"
is "$(ls $dir)" README "$kind: it is as it was"
kind='a symlink'
mv $dir /tmp/dir
chmod 700 /tmp/dir
ln -s /tmp/dir $dir
of_no_use "prhelper: state directory $dir: not used: *"
is "$(ls /tmp/dir)" README "$kind: what it leads to is as it was"
kind='a file'
rm $dir
echo hello >$dir
of_no_use "prhelper: state directory $dir: not used: Not a directory"
is "$(cat $dir)" hello "$kind: it is as it was"
rm $dir

kind='read-only'
mkdir $dir
mount -t tmpfs -o ro,mode=700 state $dir
of_no_use "prhelper: state *: Read-only file system"
umount $dir

kind='a full file system'
mount -t tmpfs -o size=16k,mode=700 state $dir
dd if=/dev/zero of=$dir/README 2>/dev/null
of_no_use 'prhelper: state file of *: No space left on device'
is "$(ls $dir)" README "$kind: nothing was left there"
umount $dir
rmdir $dir

### As another user

kind='-u nobody'
ok "$kind: it serves" start_helper -u nobody 2>/tmp/warnings
works 'from the start'
is "$(stat -c '%a %U' $dir $dir/* | xargs)" '700 nobody 600 nobody' \
	"$kind: the directory is nobody's"
offline "$p2"
put '00 -' 'REGISTER another key' 0 0 c d
killed
ok "$kind: the next one serves" start_helper -u nobody 2>>/tmp/warnings
returned "$p2" '1 b, 4 d'
killed
is "$(grep state /tmp/warnings)" '' "$kind: nothing is said"
kind="root where nobody's is"
of_no_use "prhelper: state directory $dir: *must be ours*"

done_testing
