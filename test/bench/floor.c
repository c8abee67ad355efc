/* See LICENSE file for copyright and license details. */
/*
 * floor: the least that a helper can do, as a measure for those that do more.
 *
 *	floor SOCKET
 *
 * A process for each connection: receive, SG_IO, send, and nothing else. It
 * checks nothing, waits for everybody, knows of no maps, and lets any command
 * through. Never start it where anybody else can connect.
 */
#define _GNU_SOURCE
#include <scsi/sg.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../client.h"

enum { TIMEOUT = 60000 /* ms */ };

/* A CDB with a descriptor: that, or -1. */
static int
receive(int fd, unsigned char cdb[CDBLEN])
{
	union {
		struct cmsghdr head;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = cdb, .iov_len = CDBLEN };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control) };
	int disk;

	if (recvmsg(fd, &mh, MSG_CMSG_CLOEXEC) != CDBLEN ||
	    !mh.msg_controllen)
		return -1;
	memcpy(&disk, CMSG_DATA(&control.head), sizeof(disk));
	return disk;
}

static void
serve(int fd)
{
	static unsigned char reply[HDRLEN + DATAMAX], param[DATAMAX];
	unsigned char cdb[CDBLEN], features[4] = { 0 };
	struct sg_io_hdr io;
	unsigned size;
	size_t len;
	int disk, status, in;

	write(fd, features, sizeof(features));
	read(fd, features, sizeof(features));
	while ((disk = receive(fd, cdb)) >= 0) {
		len = cdb_len(cdb);
		in = cdb[0] == 0x5e;
		if (!in && len)
			read(fd, param, len);
		memset(reply, 0, HDRLEN);
		io = (struct sg_io_hdr){
			.interface_id = 'S',
			.dxfer_direction =
			    in ? SG_DXFER_FROM_DEV : SG_DXFER_TO_DEV,
			.cmd_len = 10,
			.cmdp = cdb,
			.dxferp = in ? reply + HDRLEN : param,
			.dxfer_len = (unsigned)len,
			.sbp = reply + 8,
			.mx_sb_len = SENSELEN,
			.timeout = TIMEOUT,
		};
		status = ioctl(disk, SG_IO, &io) < 0 ? 2 : io.status;
		close(disk);
		size = in && status == 0 ? (unsigned)(len - (size_t)io.resid) :
					   0;
		putbe(reply, (unsigned)status, 4);
		putbe(reply + 4, size, 4);
		send(fd, reply, HDRLEN + size, MSG_NOSIGNAL);
	}
}

int
main(int argc, char *argv[])
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int listener, fd;

	if (argc != 2 || strlen(argv[1]) >= sizeof(sun.sun_path))
		return 3;
	strcpy(sun.sun_path, argv[1]);
	unlink(argv[1]);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    listen(listener, 1280) < 0)
		return 1;
	signal(SIGCHLD, SIG_IGN);
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			close(listener);
			serve(fd);
			_exit(0);
		}
		close(fd);
	}
	return 1;
}
