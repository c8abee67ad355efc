# prhelper: the one place for version, paths, compilers and switches

VERSION = 0.1

PREFIX = /usr/local
MANPREFIX = ${PREFIX}/share/man
# Where systemd looks, too
UNITDIR = ${PREFIX}/lib/systemd/system
APPARMORDIR = /etc/apparmor.d
# Where what makes an initramfs looks for hooks; dracut has no other place
INITRAMFSDIR = /etc/initramfs-tools
DRACUTDIR = /usr/lib/dracut/modules.d
INITCPIODIR = /etc/initcpio
# Where OpenRC and sysvinit look, OpenRC's settings, services of runit and s6
INITDIR = /etc/init.d
CONFDIR = /etc/conf.d
RUNITDIR = /etc/sv
S6DIR = /etc/s6/sv

# Where `make libdm` puts libdevmapper.a, its header, and links to the
# kernel's headers, which musl-gcc does not find by itself
LIBDM = libdm
# lvm2 of the distribution's sources, and the checksum of its upstream archive
LVM2_VERSION = 2.03.16-2
LVM2_SHA256 = 9eee14d34f7962ade7d4624114ce7b6bd3d868d210afb72b3769f8c6a082646e

CC = musl-gcc
STRIP = strip
CPPFLAGS = -D_GNU_SOURCE -DVERSION=\"${VERSION}\" \
	-isystem ${LIBDM}/include
WARN = -std=c11 -pedantic -Wall -Wextra -Wshadow -Wmissing-prototypes \
	-Wconversion -Wstrict-prototypes -Wvla -Wno-sign-conversion
CFLAGS = -Os -fPIE -ffunction-sections -fdata-sections \
	-fstack-protector-strong \
	-fno-asynchronous-unwind-tables -pthread ${WARN}

# A static PIE: -static-pie makes musl-gcc link dynamically without a word,
# so its start-up files are named. `make CC=gcc LDFLAGS= LIBS=-ldevmapper`
# gives a dynamic one on any Linux system.
MUSL = /usr/lib/`uname -m`-linux-musl
LDFLAGS = -static -nostartfiles ${MUSL}/rcrt1.o ${MUSL}/crti.o ${MUSL}/crtn.o \
	-Wl,-pie -Wl,--no-dynamic-linker -Wl,-z,text -Wl,-z,relro -Wl,-z,now \
	-Wl,-z,noexecstack -Wl,--gc-sections
LIBS = ${LIBDM}/libdevmapper.a
