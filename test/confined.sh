# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What a worker of test/confined tries, on the host and in the test machine.

# In the directory where it was started; elsewhere it may remove its socket.
bait() {
	echo >precious
}

# attempts PRC SOCKET DISK: try each; want is an errno, or 00: it works. What
# $unlimited names, which the kernel does not limit, is left out.
unlimited='' kind=''
attempts() {
	while read -r number want what; do
		case $unlimited,$want in
		*files*,0d | *calls*,01) continue ;;
		*,00) sense='00 -' ;;
		*) sense="02 b/00/$want" ;;
		esac
		is "$(timeout 20 "$1" "$2" "$3" "5e1f$number" </dev/null |
			cut -d ' ' -f 1,2)" "$sense" "$kind: $what: $want"
	done <<-END
	00 00 getpid
	01 00 read /dev/zero
	10 0d read /etc/passwd
	11 0d read /proc/self/maps
	12 0d create a file
	13 0d write to /dev/zero
	14 0d write to /sys/kernel/rcu_expedited
	15 0d unlink
	20 01 execve
	21 01 socket AF_INET
	22 01 ptrace
	23 01 mount
	24 01 ioctl TIOCSTI
	25 01 fork
	26 01 kill
	27 01 mprotect PROT_EXEC
	28 01 mmap of a file
	29 01 mmap PROT_EXEC
	2a 01 an x32 call
	2b 01 setuid
	2c 01 fcntl F_SETOWN
	END
	is "$(ls)" precious "$kind: no file came or went"
}

# said FILE: print the numbers of the calls of which it says that they were
# refused, one for each line that does
said() {
	sed -n 's/^prhelper: system call \([0-9]*\) .* was refused$/\1/p' "$1" |
		xargs
}

# fork: libc makes it with all signals blocked, so it is not said
# shellcheck disable=SC2034 # for those who read this file
all_said='59 41 101 165 16 62 10 9 1073741863 105 72'
