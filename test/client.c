/* See LICENSE file for copyright and license details. */
/*
 * The client's side of the protocol, for the test programs: what QEMU's
 * pr-manager-helper does, in pieces that a test can also use wrongly.
 */
#include <errno.h>
#include <poll.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

long long
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

unsigned long
getbe(const unsigned char *p, int n)
{
	unsigned long v = 0;

	while (n-- > 0)
		v = v << 8 | *p++;
	return v;
}

void
putbe(unsigned char *p, unsigned long v, int n)
{
	for (; n-- > 0; v >>= 8)
		p[n] = (unsigned char)v;
}

size_t
cdb_len(const unsigned char *cdb)
{
	if (cdb[0] == 0x5e)
		return getbe(cdb + 7, 2);
	if (cdb[0] == 0x5f)
		return getbe(cdb + 5, 4);
	return 0;
}

int
dial(const char *path)
{
	struct sockaddr_un sun;
	int fd;

	if (strlen(path) >= sizeof(sun.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memset(&sun, 0, sizeof(sun));
	sun.sun_family = AF_UNIX;
	strcpy(sun.sun_path, path);
	if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

size_t
readn(int fd, void *buf, size_t n, int ms)
{
	long long left = -1, end = now_ms() + ms;
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	size_t done = 0;
	ssize_t r;

	while (fd >= 0 && done < n) {
		if (ms >= 0 && (left = end - now_ms()) < 0)
			break;
		r = poll(&pfd, 1, (int)left);
		if (r > 0)
			r = read(fd, (char *)buf + done, n - done);
		else if (r == 0)
			break;
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	return done;
}

int
sendfds(int fd, const void *buf, size_t n, const int *fds, int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(MAXFDS * sizeof(int))];
	} ctl;
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t len = (size_t)nfds * sizeof(int);
	ssize_t r;

	if (nfds > 0) {
		memset(&ctl, 0, sizeof(ctl));
		msg.msg_control = ctl.buf;
		msg.msg_controllen = (socklen_t)CMSG_SPACE(len);
		ctl.align.cmsg_level = SOL_SOCKET;
		ctl.align.cmsg_type = SCM_RIGHTS;
		ctl.align.cmsg_len = (socklen_t)CMSG_LEN(len);
		memcpy(CMSG_DATA(&ctl.align), fds, len);
	}
	do
		r = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -1;
	return (size_t)r < n ? writen(fd, (const char *)buf + r,
	    n - (size_t)r) : 0;
}

int
writen(int fd, const void *buf, size_t n)
{
	return n == 0 ? 0 : sendfds(fd, buf, n, NULL, 0);
}

long
handshake(int fd, int ms)
{
	unsigned char b[4];
	long features;

	if (readn(fd, b, 4, ms) != 4)
		return -1;
	features = (long)getbe(b, 4);
	memset(b, 0, 4);
	return writen(fd, b, 4) < 0 ? -1 : features;
}

int
readanswer(int fd, const unsigned char *cdb, struct answer *a, int ms)
{
	unsigned char hdr[HDRLEN];
	unsigned long status, size;

	if (readn(fd, hdr, HDRLEN, ms) != HDRLEN)
		return -1;
	status = getbe(hdr, 4);
	size = getbe(hdr + 4, 4);
	memcpy(a->sense, hdr + 8, SENSELEN);
	if (status > 0xff || size > DATAMAX)
		return -2;
	if (size && (cdb[0] != 0x5e || status || size > cdb_len(cdb)))
		return -2;
	a->status = (int)status;
	a->size = (int)size;
	return readn(fd, a->data, size, ms) == size ? 0 : -1;
}

void
direct(int disk, const unsigned char *cdb, const unsigned char *param,
    size_t len, struct answer *a)
{
	struct sg_io_hdr io = {
		.interface_id = 'S', .timeout = 60000,
		.dxfer_direction = SG_DXFER_NONE, .dxferp = a->data,
		.cmdp = (unsigned char *)cdb, .cmd_len = cdb[0] < 0x20 ? 6 : 10,
		.sbp = a->sense, .mx_sb_len = SENSELEN,
	};

	if (len) {
		io.dxfer_direction = SG_DXFER_TO_DEV;
		io.dxferp = (unsigned char *)param;
		io.dxfer_len = (unsigned)len;
	} else if (cdb_len(cdb)) {
		io.dxfer_direction = SG_DXFER_FROM_DEV;
		io.dxfer_len = (unsigned)cdb_len(cdb);
	}
	memset(a->sense, 0, SENSELEN);
	a->size = 0;
	a->status = 0xff;
	if (ioctl(disk, SG_IO, &io) < 0 || io.host_status)
		return;
	a->status = io.status;
	if (io.dxfer_direction == SG_DXFER_FROM_DEV && io.status == 0)
		a->size = (int)io.dxfer_len - io.resid;
}

static char *
puthex(char *s, const unsigned char *p, size_t n)
{
	while (n-- > 0)
		s += sprintf(s, "%02x", *p++);
	return s;
}

static char *
putsense(char *s, const unsigned char *p)
{
	switch (p[0] & 0x7f) {
	case 0x70:
	case 0x71:
		return s + sprintf(s, " %x/%02x/%02x", p[2] & 15, p[12],
		    p[13]);
	case 0x72:
	case 0x73:
		return s + sprintf(s, " %x/%02x/%02x", p[1] & 15, p[2], p[3]);
	default:
		return s + sprintf(s, " -");
	}
}

char *
answer_line(char *buf, const struct answer *a, int raw)
{
	char *s = buf;

	s += sprintf(s, "%02x", (unsigned)a->status);
	s = putsense(s, a->sense);
	*s++ = ' ';
	if (a->size == 0)
		*s++ = '-';
	s = puthex(s, a->data, (size_t)a->size);
	if (raw) {
		*s++ = ' ';
		s = puthex(s, a->sense, SENSELEN);
	}
	*s = '\0';
	return buf;
}

static int
digit(int c)
{
	static const char digits[] = "0123456789abcdef";
	const char *p;

	if (c >= 'A' && c <= 'F')
		c += 'a' - 'A';
	p = c ? strchr(digits, c) : NULL;
	return p ? (int)(p - digits) : -1;
}

long
unhex(unsigned char *buf, size_t max, const char *s, size_t len)
{
	size_t i;
	int hi, lo;

	if (len % 2 || len / 2 > max)
		return -1;
	for (i = 0; i < len / 2; i++) {
		hi = digit(s[2 * i]);
		lo = digit(s[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return -1;
		buf[i] = (unsigned char)(hi << 4 | lo);
	}
	return (long)(len / 2);
}
