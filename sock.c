/* See LICENSE file for copyright and license details. */
/*
 * The listening socket: made or taken over at start-up, never later. A path
 * is never taken from a living helper, and never visible before it accepts.
 */
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "prhelper.h"

enum { BACKLOG = 1024 }; /* as many as may wait for a full table */

int
sock_activated(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");

	/* libvirt leaves its own environment in place: not meant for us. */
	if (!pid || !fds || number(pid) != getpid())
		return 0;
	if (strcmp(fds, "0") == 0)
		return 0;
	if (number(fds) != 1)
		die("LISTEN_FDS is %s: only one socket can be served", fds);
	return 1;
}

void
sock_adopt(int fd)
{
	int domain = -1, type = -1, listening = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		die("activation: descriptor %d:", fd);
	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len);
	if (domain != AF_UNIX || type != SOCK_STREAM || !listening)
		die("activation: descriptor %d is no listening Unix stream "
		    "socket",
		    fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
	    fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		die("activation: descriptor %d:", fd);
}

/* connect(2) that waits, not for ever, for room in the backlog. */
static int
dial(int sock, const struct sockaddr_un *sun)
{
	int64_t end = now() + PROBE_TIME;
	int r;

	for (;;) {
		r = connect(sock, (const struct sockaddr *)sun, sizeof(*sun));
		if (r == 0 || errno != EAGAIN || now() >= end)
			return r;
		poll(NULL, 0, RETRY_TIME);
	}
}

static pid_t
peer(int sock)
{
	struct ucred cred = { .pid = 0 };
	socklen_t len = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	return cred.pid;
}

/*
 * Is there somebody alive at the other end? A helper that was killed while a
 * thread hangs in SG_IO still takes connections, for as long as the kernel
 * keeps that thread; but it does not greet, and its process is a zombie. One
 * with a full table does not greet either, but lives.
 */
static int
alive(int sock, pid_t pid)
{
	uint8_t features[FEATURES_LEN];
	struct pollfd p = { .fd = sock, .events = POLLIN };
	int64_t end = now() + PROBE_TIME;

	do {
		if (poll(&p, 1, RETRY_TIME) > 0)
			return recv(sock, features, sizeof(features), 0) ==
			    sizeof(features);
	} while ((pid <= 0 || pid_alive(pid)) && now() < end);
	return pid_alive(pid);
}

/* Does a living helper serve this address? 1 and its pid (0: unknown). */
static int
served(const struct sockaddr_un *sun, pid_t *pid)
{
	int sock, live;

	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (sock < 0)
		die("socket:");
	*pid = 0;
	if (dial(sock, sun) == 0) {
		*pid = peer(sock);
		live = alive(sock, *pid);
	} else {
		/* A full backlog cannot be asked, but somebody listens. */
		live = errno == EAGAIN;
		if (!live && errno != ECONNREFUSED && errno != ENOENT)
			die("socket %s:", sun->sun_path);
	}
	close(sock);
	return live;
}

/*
 * Only one at a time may look whether a path is free and take it. Who may
 * read the directory may lock it too: so not for ever.
 */
static void
lock_directory(int dir)
{
	int64_t end = now() + LOCK_TIME;

	while (flock(dir, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK &&
	    now() < end)
		poll(NULL, 0, RETRY_TIME);
}

static void
check_free(const char *path, const struct sockaddr_un *sun)
{
	struct stat st;
	pid_t pid;

	if (lstat(path, &st) < 0) {
		if (errno != ENOENT)
			die("socket %s:", path);
		return;
	}
	if (!S_ISSOCK(st.st_mode))
		die("socket %s: exists and is no socket", path);
	if (served(sun, &pid))
		die("socket %s: in use by a living helper, pid %ld", path,
		    (long)pid);
	say(LOG_VERBOSE, "socket %s: stale, replaced", path);
	if (unlink(path) < 0)
		die("socket %s:", path);
}

/*
 * Bind under a name of our own and give it the path when it accepts; link(2)
 * since it leaves alone what came there meanwhile. The name is bound from
 * within its directory: the path alone may fill an address.
 */
int
sock_listen(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct sockaddr_un tmp = { .sun_family = AF_UNIX };
	const char *base = strrchr(path, '/') + 1;
	size_t dirlen = (size_t)(base - path);
	char dir[sizeof(sun.sun_path)];
	int fd, cwd, dirfd;

	if (strlen(path) >= sizeof(sun.sun_path))
		die("socket %s: longer than %zu bytes", path,
		    sizeof(sun.sun_path) - 1);
	if (*base == '\0')
		die("socket %s: names a directory", path);
	memcpy(sun.sun_path, path, strlen(path));
	memcpy(dir, path, dirlen);
	dir[dirlen] = '\0';
	snprintf(tmp.sun_path, sizeof(tmp.sun_path), ".prhelper.%ld",
	    (long)getpid());

	if ((cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		die("current directory:");
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 || fchdir(dirfd) < 0)
		die("socket directory %s:", dir);
	lock_directory(dirfd);
	check_free(path, &sun);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket:");
	unlink(tmp.sun_path);
	if (bind(fd, (struct sockaddr *)&tmp, sizeof(tmp)) < 0)
		die("socket %s:", path);
	if (listen(fd, BACKLOG) < 0 || link(tmp.sun_path, base) < 0) {
		warn("socket %s:", path);
		unlink(tmp.sun_path);
		exit(1);
	}
	unlink(tmp.sun_path);
	if (fchdir(cwd) < 0)
		die("current directory:");
	close(dirfd);
	close(cwd);
	return fd;
}
