# See LICENSE file for copyright and license details.
.POSIX:

include config.mk

BIN = prhelper
ALIAS = qemu-pr-helper
MAN = prhelper.8
SRC = prhelper.c ctl.c sock.c priv.c confine.c proto.c mpath.c sg.c dm.c \
	path.c state.c trace.c clock.c util.c
OBJ = ${SRC:.c=.o}
DIST = LICENSE README.md BENCHMARKS.md CHANGES TODO Makefile config.mk \
	libdm.sh prhelper.h ${SRC} ${MAN} contrib doc test .ci .clang-format \
	.clang-tidy
IMAGE = ${BIN}-${VERSION}.oci.tar

all: ${BIN}

# A library that is named as a file must be there before anything is built. An
# archive of the sources has what it takes, without a network.
libs:
	@for f in ${LIBS}; do case $$f in -*) continue ;; esac; \
		test ! -e "$$f" && ls ${LIBDM}/lvm2_*.tar.xz >/dev/null 2>&1 && \
			${MAKE} -s libdm; \
		test -e "$$f" || { \
		echo "make: $$f is missing: run 'make libdm' first" >&2; \
		exit 1; }; done

${OBJ}: prhelper.h config.mk | libs

.c.o:
	${CC} ${CPPFLAGS} ${CFLAGS} -c -o $@ $<

${BIN}: ${OBJ}
	${CC} ${CFLAGS} -o $@ ${OBJ} ${LDFLAGS} ${LIBS}

libdm:
	@sh libdm.sh ${LIBDM} ${LVM2_VERSION} ${LVM2_SHA256}

# An OCI image, of this binary or of IMAGE_BINS: one for each architecture
IMAGE_BINS = ${BIN}
image: all
	STRIP='${STRIP}' sh contrib/oci/build ${IMAGE} ${VERSION} ${IMAGE_BINS}

test:
	sh test/run

demo:
	sh test/demo

bench: all
	sh test/bench/run

sim:
	@${MAKE} -s -C test sim/sim

check:
	sh test/run lint

install: all
	mkdir -p ${DESTDIR}${PREFIX}/bin ${DESTDIR}${MANPREFIX}/man8
	cp -f ${BIN} ${DESTDIR}${PREFIX}/bin/${BIN}
	${STRIP} ${DESTDIR}${PREFIX}/bin/${BIN}
	chmod 755 ${DESTDIR}${PREFIX}/bin/${BIN}
	ln -sf ${BIN} ${DESTDIR}${PREFIX}/bin/${ALIAS}
	sed 's,/usr/local,${PREFIX},' ${MAN} >${DESTDIR}${MANPREFIX}/man8/${MAN}
	chmod 644 ${DESTDIR}${MANPREFIX}/man8/${MAN}
	ln -sf ${MAN} ${DESTDIR}${MANPREFIX}/man8/${ALIAS}.8

# MODE FILE PATH: put a file of contrib there
PUT = put() { \
	mkdir -p "$${3%/*}" && \
	sed 's,/usr/local,${PREFIX},' "contrib/$$2" >"$$3" && \
	chmod "$$1" "$$3"; \
}; put

install-systemd:
	${PUT} 644 systemd/prhelper.service \
		${DESTDIR}${UNITDIR}/prhelper.service
	${PUT} 644 systemd/prhelper.socket \
		${DESTDIR}${UNITDIR}/prhelper.socket

install-openrc:
	${PUT} 755 openrc/prhelper ${DESTDIR}${INITDIR}/prhelper
	test -e ${DESTDIR}${CONFDIR}/prhelper || { \
		${PUT} 644 openrc/conf.d ${DESTDIR}${CONFDIR}/prhelper; }

install-runit:
	${PUT} 755 runit/run ${DESTDIR}${RUNITDIR}/prhelper/run
	${PUT} 755 runit/log/run ${DESTDIR}${RUNITDIR}/prhelper/log/run

install-s6:
	${PUT} 755 s6/run ${DESTDIR}${S6DIR}/prhelper/run
	${PUT} 755 s6/log/run ${DESTDIR}${S6DIR}/prhelper/log/run

install-sysvinit:
	${PUT} 755 sysvinit/prhelper ${DESTDIR}${INITDIR}/prhelper

install-apparmor:
	${PUT} 644 apparmor/prhelper ${DESTDIR}${APPARMORDIR}/prhelper

INITRAMFS = hooks scripts/init-premount scripts/init-bottom
install-initramfs-tools:
	for d in ${INITRAMFS}; do \
		${PUT} 755 initramfs-tools/$$d/prhelper \
			${DESTDIR}${INITRAMFSDIR}/$$d/prhelper || exit; \
	done

DRACUT = module-setup.sh prhelper.sh prhelper-end.sh
install-dracut:
	for f in ${DRACUT}; do \
		${PUT} 755 dracut/91prhelper/$$f \
			${DESTDIR}${DRACUTDIR}/91prhelper/$$f || exit; \
	done

install-mkinitcpio:
	${PUT} 755 mkinitcpio/install/prhelper \
		${DESTDIR}${INITCPIODIR}/install/prhelper
	${PUT} 755 mkinitcpio/hooks/prhelper \
		${DESTDIR}${INITCPIODIR}/hooks/prhelper

uninstall:
	rm -f ${DESTDIR}${UNITDIR}/prhelper.service
	rm -f ${DESTDIR}${UNITDIR}/prhelper.socket
	rm -f ${DESTDIR}${INITDIR}/prhelper ${DESTDIR}${CONFDIR}/prhelper
	rm -rf ${DESTDIR}${RUNITDIR}/prhelper ${DESTDIR}${S6DIR}/prhelper
	rm -f ${DESTDIR}${APPARMORDIR}/prhelper
	for d in ${INITRAMFS}; do \
		rm -f ${DESTDIR}${INITRAMFSDIR}/$$d/prhelper; \
	done
	rm -rf ${DESTDIR}${DRACUTDIR}/91prhelper
	rm -f ${DESTDIR}${INITCPIODIR}/install/prhelper
	rm -f ${DESTDIR}${INITCPIODIR}/hooks/prhelper
	rm -f ${DESTDIR}${PREFIX}/bin/${BIN} ${DESTDIR}${PREFIX}/bin/${ALIAS}
	rm -f ${DESTDIR}${MANPREFIX}/man8/${MAN}
	rm -f ${DESTDIR}${MANPREFIX}/man8/${ALIAS}.8

clean:
	rm -f ${BIN} ${OBJ} ${BIN}-${VERSION}.tar.gz ${IMAGE}
	rm -rf ${RELEASE}

# The sources, and nothing that was made of them
TREE = ${BIN}-${VERSION}
tree:
	rm -rf ${TREE}
	mkdir ${TREE}
	cp -R ${DIST} ${TREE}
	rm -rf ${TREE}/test/log
	find ${TREE} -name '*.o' -exec rm -f {} +
	${MAKE} -s -C ${TREE}/test clean

dist: tree
	tar -cf - ${TREE} | gzip -9 >${TREE}.tar.gz
	rm -rf ${TREE}

# Archives for six processors; wants their compilers: sh test/setup release
release:
	sh contrib/release/build ${RELEASE} ${VERSION}
RELEASE = release

# A Debian package; wants debhelper
DEB = ${RELEASE}/debian
deb:
	sh contrib/release/build ${RELEASE} ${VERSION} source
	sh contrib/debian/build ${DEB} ${RELEASE}/${TREE}.tar.gz

.PHONY: all libs libdm image test demo bench sim check install \
	install-systemd install-openrc install-runit install-s6 \
	install-sysvinit install-apparmor install-initramfs-tools \
	install-dracut install-mkinitcpio uninstall clean tree dist release deb
