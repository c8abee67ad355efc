# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The container image as KubeVirt starts it: KubeVirt's own DaemonSet with the
# patches of doc/kubevirt.md, merged by kubectl, run by crun. kubelet and
# virt-handler are played, guests are processes of user 107.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh

### Disks: a plain one and a map. A pod has nodes of its own for its guest.

lun plain
d=$(path plain)
four_paths
pods=/tmp/pods
for n in 1 2; do
	mkdir -p $pods/$n
	mknod $pods/$n/plain b "$(stat -c 0x%t "$d")" "$(stat -c 0x%T "$d")"
	mknod $pods/$n/map b "$(stat -L -c 0x%t $mp)" "$(stat -L -c 0x%T $mp)"
done
chown -R 107:107 $pods
plain1=$pods/1/plain map1=$pods/1/map map2=$pods/2/map

# What is sent through the helper is sent by a guest's QEMU.
prc() {
	case $1 in
	-) /bin/prc "$@" ;;
	*) as_qemu /bin/prc "$@" ;;
	esac
}

as_qemu() {
	setpriv --reuid=107 --regid=107 --clear-groups "$@"
}

### The node: an image, containers, virt-handler

dir=/var/run/kubevirt/daemons/pr
socket=$dir/pr-helper.sock
mkdir /tmp/layout /tmp/c
tar -C /tmp/layout -xf /image.tar
tag=$(sed -n 's/.*ref.name":"\([^"]*\)".*/\1/p' /tmp/layout/index.json)
umoci unpack --image "/tmp/layout:$tag" /tmp/image
is "$(cd /tmp/image/rootfs && find . ! -type d | sort | xargs)" \
	'./entrypoint.sh ./usr/bin/prhelper ./usr/bin/qemu-pr-helper' \
	'image: three names and nothing else'
is "$(cd /tmp/image/rootfs && find . -type f)" ./usr/bin/prhelper \
	'image: one file'

# page_patch N: print the Nth patch of the page
page_patch() {
	awk -v n="$1" '/^```/ { on = 0 } on && i == n { print }
		/patch: \|$/ { on = 1; i++ }' /kubevirt.md
}

# patched N FILE [SED]: KubeVirt's DaemonSet with that patch, itself changed
patched() {
	kubectl patch --local -f /daemonset.yaml --type strategic \
		-p "$(page_patch "$1" | sed "${3:-}")" -o json >"$2"
}

# create NAME DAEMONSET [OPTION]...: a new container out of the image
create() {
	name=$1 manifest=$2
	shift 2
	crun delete -f "$name" 2>/dev/null || :
	rm -rf "/tmp/c/$name"
	cp -a /tmp/image "/tmp/c/$name"
	kubelet "$@" "$manifest" "/tmp/c/$name"
}

# run NAME DAEMONSET [OPTION]...: create it, start it
run() {
	create "$@"
	crun run -b "/tmp/c/$name" --pid-file "/tmp/c/$name/pid" "$name" \
		>"/tmp/c/$name/log" 2>&1 &
	runtime=$!
	within 20 test -s "/tmp/c/$name/pid"
	pid=$(cat "/tmp/c/$name/pid")
}

# ends: wait for the container; print its exit status as the runtime tells it
ends() {
	wait "$runtime"
	status=$?
	sed 's/^/# log: /' "/tmp/c/$name/log"
	crun delete -f "$name" 2>/dev/null
	return $status
}

words() {
	xargs </tmp/words
}

saw() {
	[ "$(words)" = "$1" ]
}

# sees WANT WHAT: all that virt-handler has seen up to now
sees() {
	within 30 saw "$1" || :
	is "$(words)" "$1" "$2"
}

up() {
	[ "$(prc $socket /dev/null "$(in_cdb 0 8)" 2>/dev/null)" = \
		'02 5/20/00 -' ]
}

owner() {
	stat -c '%u:%g' "$1"
}

### 1. The image in place of KubeVirt's: privileged, in the node's pid namespace

kind='image exchanged'
patched 1 /tmp/1.json
virt-handler $socket >>/tmp/words &
watcher=$!
run pr-helper /tmp/1.json
sees 'given healthy' 'virt-handler: finds the socket and gives it away'
is "$(owner $socket) $(owner $dir)" '107:107 107:107' \
	"$kind: socket and directory belong to the guests' user"
ok "$kind: a guest is served" within 10 up
is "$(owner $socket)" 107:107 "$kind: and the socket still is"
ok "$kind: another user may not connect" sh -c "! setpriv --reuid=65534 \
	--regid=65534 --clear-groups prc $socket /dev/null 5e 2>/dev/null"
is "$(tr '\0' ' ' <"/proc/$pid/cmdline")" \
	"/entrypoint.sh -k $socket " "$kind: started as KubeVirt does it"
# In the container it is what the image has, under KubeVirt's name
is "$(readlink "/proc/$pid/exe")" /usr/bin/prhelper "$kind: it is prhelper"
is "$(status "$pid" CapEff) $(status "$pid" CapBnd)" \
	'0000000000220000 0000000000000000' \
	"$kind: of all capabilities two are left"
is "$(status "$pid" NoNewPrivs)" 1 "$kind: no_new_privs"

# Both guests at once, each on its own connection
prout '00 -' "guest 1: REGISTER on the plain disk" $plain1 0 0 0 a
prout '00 -' "guest 2: REGISTER on the map" $map2 0 0 0 b
copies_are '4 b'
prc -q -n 400 $socket $plain1 "$(in_cdb 0 255)" "$(out_cdb 6 0 0 a)" \
	>/tmp/guest1 2>/dev/null &
one=$!
prc -q -n 100 $socket $map2 "$(in_cdb 0 255)" "$(out_cdb 6 0 0 b)" \
	>/tmp/guest2 2>/dev/null &
two=$!
wait $one
one=$?
wait $two
is "$one $?" '0 0' "$kind: two guests at once are answered"
like "$(cat /tmp/guest1) $(cat /tmp/guest2)" '00 - - 00 - -' \
	"$kind: ... each of their commands"
prout '00 -' "guest 1: RESERVE" $plain1 1 5 a 0
prout '00 -' "guest 2: RESERVE" $map2 1 5 b 0
holder_is "b $we_ro"

# The container is killed, with connections, and with a path away that misses
# the change of the key. What comes next comes to the same directory.
mkfifo /tmp/to1 /tmp/to2
prc $socket $plain1 </tmp/to1 >/tmp/from1 &
prc $socket $map2 </tmp/to2 >/tmp/from2 &
exec 5>/tmp/to1 6>/tmp/to2
in_cdb 0 255 >&5
echo >&5
in_cdb 0 255 >&6
echo >&6
answered() {
	[ "$(cat /tmp/from1 /tmp/from2 | grep -c '^00 - ')" -eq 2 ]
}
ok "$kind: both have a connection" within 10 answered
offline "$p2"
prout '00 -' "guest 2: a new key while a path is away" $map2 0 0 b c
copies_are '3 c'
inode=$(stat -c %i $socket)
kill -KILL "$pid"
ends
is $? 137 'killed: the runtime says so'
ok 'killed: the socket is left' test -S $socket
is "$(words)" 'given healthy' 'killed: nothing that virt-handler could see'
running "$p2"

run pr-helper /tmp/1.json
sees 'given healthy unhealthy healthy given' \
	'restarted: virt-handler sees the old socket go and a new one come'
ok 'restarted: another socket' test "$(stat -c %i $socket)" != "$inode"
is "$(owner $socket)" 107:107 "restarted: ... which is the guests' again"
copies_become '4 c'
diag 'so without a command of the guest: the state outlived the container'
in_cdb 0 255 >&5
echo >&5
in_cdb 0 255 >&6
echo >&6
exec 5>&- 6>&-
closed() {
	[ "$(tail -qn 1 /tmp/from1 /tmp/from2 | xargs)" = 'closed closed' ]
}
ok 'restarted: the old connections are closed' within 10 closed
prin '00 - *000000000000000a*' 'guest 1 comes again' $plain1 0
prout '00 -' 'guest 2 comes again' $map2 2 5 c 0
holder_is ''
prout '00 -' 'CLEAR' $map2 3 0 c 0

kill -TERM "$pid"
ends
is $? 0 'stopped: exit status 0'
# It has no right any more to remove the name from a directory that was given
# away. Nobody is behind it, and there is nothing else.
is "$(cd $dir && find . -mindepth 1 ! -name .turns | sort | xargs)" \
	'./pr-helper.sock ./pr-helper.sock.state' \
	'stopped: a name and a directory without state are left'
like "$(prc $socket /dev/null "$(in_cdb 0 8)" 2>&1)" '*onnection refused*' \
	'stopped: nobody accepts'
is "$(crun list -q)" '' 'stopped: no container is left'

### 2. Without privileges, for plain disks

kind='not privileged'
patched 2 /tmp/2.json
: >/tmp/words
run pr-helper /tmp/2.json
sees 'unhealthy healthy given' "$kind: virt-handler sees the new socket"
ok "$kind: a guest is served" within 10 up
is "$(status "$pid" CapEff) $(status "$pid" CapBnd)" \
	'0000000000020000 0000000000020002' "$kind: CAP_SYS_RAWIO is left"
is "$(status "$pid" NoNewPrivs) $(status "$pid" Seccomp)" '1 2' \
	"$kind: no_new_privs, and the usual seccomp profile"
prout '00 -' 'REGISTER' $plain1 6 0 0 a
prout '00 -' 'RESERVE' $plain1 1 5 a 0
prin '00 - *000000000000000a*' 'READ RESERVATION' $plain1 1
prout '00 -' 'CLEAR' $plain1 3 0 a 0
prout '02 5/20/00' 'a map is refused' $map1 0 0 0 a
copies_are ''
is "$(cat /tmp/c/pr-helper/log)" "prhelper: multipath maps are refused: $(
	)/dev/mapper/control: Operation not permitted" \
	"$kind: ... and it says why"
kill -TERM "$pid"
ends
is $? 0 "$kind: exit status 0"


# fails WANT WHAT DAEMONSET [OPTION]...: a container that does not start to
# serve ends with status 1 and this message
fails() {
	want=$1 what=$2
	shift 2
	run "$@"
	ends
	is "$? $(tail -n 1 "/tmp/c/$name/log")" "1 prhelper: $want" \
		"$kind: $what"
}

patched 2 /tmp/less.json 's/"SYS_RAWIO", //'
fails 'capset CAP_SYS_RAWIO: Operation not permitted' \
	'not without SYS_RAWIO' pr-helper /tmp/less.json
patched 2 /tmp/less.json 's/, "DAC_OVERRIDE"//'
fails "socket $socket: Permission denied" \
	'not without DAC_OVERRIDE' pr-helper /tmp/less.json

### 3. Containers that do not see one another's processes

kind='two pid namespaces'
run first /tmp/2.json --own-pid
first=$runtime
first_pid=$pid
is "$(status "$pid" NSpid | awk '{ print NF, $NF }')" '2 1' \
	"$kind: the helper is process 1 of its own"
ok "$kind: a guest is served" within 10 up
inode=$(stat -c %i $socket)
fails "socket $socket: in use by a living helper, pid 0" \
	'a second one leaves it alone' second /tmp/2.json --own-pid
fails "socket $socket: in use by a living helper, pid $first_pid" \
	'so does one that sees all processes' second /tmp/2.json
is "$(stat -c %i $socket)" "$inode" "$kind: it is the same socket"
ok "$kind: the guest is still served" up
kill -KILL "$first_pid"
name=first runtime=$first
ends
is $? 137 "$kind: the first is killed"
run second /tmp/2.json --own-pid
ok "$kind: the next one takes the stale socket" within 20 up
kill -TERM "$pid"
ends
is $? 0 "$kind: exit status 0 as process 1"

### 4. Maps without privileges, where the runtime allows devices

kind='capabilities and devices'
patched 2 /tmp/4.json 's/"SYS_RAWIO"/&, "SYS_ADMIN"/'
run pr-helper /tmp/4.json --allow=a
ok "$kind: a guest is served" within 20 up
is "$(status "$pid" CapEff) $(status "$pid" Seccomp)" '0000000000220000 2' \
	"$kind: the two capabilities of the manual, and seccomp"
prout '00 -' 'REGISTER on a map' $map1 6 0 0 a
copies_are '4 a'
prout '00 -' 'RESERVE' $map1 1 5 a 0
holder_is "a $we_ro"
offline "$p1"
offline "$p3"
prout '00 -' 'a new key while two paths are away' $map1 0 0 a b
copies_are '2 b'
running "$p1"
copies_become '3 b'
returned "$p3" '4 b'
prout '00 -' 'CLEAR' $map1 3 0 b 0
copies_are ''
kill -TERM "$pid"
ends
is $? 0 "$kind: exit status 0"

kind='a device is missing'
allowed="--allow=c:10:236 --allow=b:$(dev_of "$p1")"
allowed="$allowed --allow=b:$(dev_of "$p3") --allow=b:$(dev_of "$p4")"
# shellcheck disable=SC2086 # several options
run pr-helper /tmp/4.json $allowed
ok "$kind: a guest is served" within 20 up
prout '00 -' 'REGISTER on a map' $map1 6 0 0 a
copies_are '3 a'
prout '00 -' 'RESERVE' $map1 1 5 a 0
prin '00 - *000000000000000a*' 'READ RESERVATION' $map1 1
prout '00 -' 'CLEAR' $map1 3 0 a 0
is "$(grep -c "^prhelper: path $(dev_of "$p2") is not used: device cgroup.*$(
	) $p2: Operation not permitted$" /tmp/c/pr-helper/log)" 1 \
	"$kind: one warning, which names it"
kill -TERM "$pid"
ends
is $? 0 "$kind: exit status 0"

ok 'virt-handler: went through all this' kill $watcher
done_testing
