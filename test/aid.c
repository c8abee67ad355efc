/* See LICENSE file for copyright and license details. */
/*
 * aid: what t/cli.t needs and sh cannot do.
 *
 *	aid fd3 KIND COMMAND...  run the command as a service manager would,
 *	                         with a socket of this kind as descriptor 3:
 *	                         listen, stream, dgram, seqpacket, inet
 *	aid notify ADDRESS       print "bound", then the first datagram that
 *	                         comes; @ADDRESS is abstract
 *	aid hold SOCKET N        keep N clients connected; print "ready"
 *	aid undead SOCKET        listen, then be what a killed process is as
 *	                         long as a thread of it hangs: a zombie that
 *	                         still takes connections
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "client.h"

#define DEADLINE 20000

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static void
say(const char *text)
{
	puts(text);
	fflush(stdout);
}

static int
bound(int type, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	socklen_t len = offsetof(struct sockaddr_un, sun_path);
	int s = socket(AF_UNIX, type, 0);

	if (strlen(path) >= sizeof(sun.sun_path))
		die(path);
	/* Without a path the kernel finds an abstract address. */
	memcpy(sun.sun_path, path, strlen(path));
	len += (socklen_t)strlen(path);
	if (sun.sun_path[0] == '@')
		sun.sun_path[0] = '\0';
	if (s < 0 || bind(s, (struct sockaddr *)&sun, len) < 0)
		die(path);
	return s;
}

static int
inet(void)
{
	struct sockaddr_in sin = { .sin_family = AF_INET };
	int s = socket(AF_INET, SOCK_STREAM, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s < 0 || bind(s, (struct sockaddr *)&sin, sizeof(sin)) < 0 ||
	    listen(s, 1) < 0)
		die("inet");
	return s;
}

static int
fd3(char *argv[])
{
	static const struct {
		const char *name;
		int type, listening;
	} kinds[] = {
		{ "listen", SOCK_STREAM, 1 }, { "stream", SOCK_STREAM, 0 },
		{ "dgram", SOCK_DGRAM, 0 }, { "seqpacket", SOCK_SEQPACKET, 1 },
	};
	char pid[16];
	int s = -1;
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[0], kinds[i].name))
			continue;
		s = bound(kinds[i].type, "");
		if (kinds[i].listening && listen(s, 1) < 0)
			die("listen");
	}
	if (s < 0)
		s = inet();
	if (s != 3)
		dup2(s, 3);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	execv(argv[1], argv + 1);
	die(argv[1]);
	return 1;
}

static int
notify(char *argv[])
{
	char msg[256];
	ssize_t n;
	int s = bound(SOCK_DGRAM, argv[0]);

	say("bound");
	alarm(DEADLINE / 1000);
	if ((n = recv(s, msg, sizeof(msg) - 1, 0)) < 0)
		die("recv");
	msg[n] = '\0';
	say(msg);
	return 0;
}

static int
hold(char *argv[])
{
	int n;

	for (n = atoi(argv[1]); n > 0; n--)
		if (handshake(dial(argv[0]), DEADLINE) < 0)
			die(argv[0]);
	say("ready");
	pause();
	return 0;
}

static void *
linger(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int
undead(char *argv[])
{
	int s = bound(SOCK_STREAM, argv[0]);
	pthread_t t;

	if (listen(s, 16) < 0 || pthread_create(&t, NULL, linger, NULL))
		die("undead");
	/* Of the first thread only. */
	syscall(SYS_exit, 0);
	return 1;
}

int
main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		int (*run)(char *argv[]);
		int args;
	} verbs[] = {
		{ "fd3", fd3, 2 }, { "notify", notify, 1 },
		{ "hold", hold, 2 }, { "undead", undead, 1 },
	};
	size_t i;

	for (i = 0; argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(argv[1], verbs[i].name) &&
		    argc - 2 >= verbs[i].args)
			return verbs[i].run(argv + 2);
	fputs("usage: aid fd3|notify|hold|undead ARGUMENT...\n", stderr);
	return 1;
}
