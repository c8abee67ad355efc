# See LICENSE file for copyright and license details.
.POSIX:

include config.mk

BIN = prhelper
ALIAS = qemu-pr-helper
MAN = prhelper.8
SRC = prhelper.c ctl.c sock.c priv.c confine.c proto.c mpath.c sg.c dm.c \
	path.c state.c trace.c clock.c util.c
OBJ = ${SRC:.c=.o}
UNITS = prhelper.service prhelper.socket
INITRAMFS = hooks/prhelper scripts/init-premount/prhelper \
	scripts/init-bottom/prhelper
DRACUT = 91prhelper/module-setup.sh 91prhelper/prhelper.sh \
	91prhelper/prhelper-end.sh
INITCPIO = install/prhelper hooks/prhelper
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
	cp ${BIN} ${DESTDIR}${PREFIX}/bin/${BIN}
	${STRIP} ${DESTDIR}${PREFIX}/bin/${BIN}
	chmod 755 ${DESTDIR}${PREFIX}/bin/${BIN}
	ln -sf ${BIN} ${DESTDIR}${PREFIX}/bin/${ALIAS}
	cp ${MAN} ${DESTDIR}${MANPREFIX}/man8/${MAN}
	chmod 644 ${DESTDIR}${MANPREFIX}/man8/${MAN}
	ln -sf ${MAN} ${DESTDIR}${MANPREFIX}/man8/${ALIAS}.8

install-systemd:
	mkdir -p ${DESTDIR}${UNITDIR}
	for u in ${UNITS}; do \
		sed 's,/usr/local,${PREFIX},' contrib/systemd/$$u \
			>${DESTDIR}${UNITDIR}/$$u && \
		chmod 644 ${DESTDIR}${UNITDIR}/$$u || exit; \
	done

install-apparmor:
	mkdir -p ${DESTDIR}${APPARMORDIR}
	cp contrib/apparmor/${BIN} ${DESTDIR}${APPARMORDIR}/${BIN}
	chmod 644 ${DESTDIR}${APPARMORDIR}/${BIN}

# FROM TO FILE...: hooks, which name the binary
HOOKS = hooks() { from=$$1 to=${DESTDIR}$$2; shift 2; for f; do \
		mkdir -p $$to/$${f%/*} && \
		sed 's,/usr/local,${PREFIX},' $$from/$$f >$$to/$$f && \
		chmod 755 $$to/$$f || return; done; }; hooks

install-initramfs-tools:
	${HOOKS} contrib/initramfs-tools ${INITRAMFSDIR} ${INITRAMFS}

install-dracut:
	${HOOKS} contrib/dracut ${DRACUTDIR} ${DRACUT}

install-mkinitcpio:
	${HOOKS} contrib/mkinitcpio ${INITCPIODIR} ${INITCPIO}

uninstall:
	rm -f ${DESTDIR}${APPARMORDIR}/${BIN}
	for f in ${INITRAMFS}; do rm -f ${DESTDIR}${INITRAMFSDIR}/$$f; done
	for f in ${INITCPIO}; do rm -f ${DESTDIR}${INITCPIODIR}/$$f; done
	rm -rf ${DESTDIR}${DRACUTDIR}/91prhelper
	for u in ${UNITS}; do rm -f ${DESTDIR}${UNITDIR}/$$u; done
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
	install-systemd install-apparmor install-initramfs-tools \
	install-dracut install-mkinitcpio uninstall clean tree dist release deb
