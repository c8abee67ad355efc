/* See LICENSE file for copyright and license details. */
/*
 * Fuzzing of what prhelper is started with: the command line, -T, LISTEN_PID,
 * LISTEN_FDS and NOTIFY_SOCKET. The real parse(), of which this file is a
 * part, trace_option(), sock_activated() and notify().
 *
 * What would end the process or touch the disk is this file's: Makefile gives
 * these functions other names, here and in all that is linked to it, so that
 * libFuzzer keeps libc's.
 *
 * An input is strings, each with its end. One that begins with the name of a
 * variable and '=' is put into the environment, with our pid for a @ at its
 * end; EVENTS= is what is in any file of trace events. The others are
 * arguments.
 */
int helper(int, char *[]);
#define main helper
#include "../../prhelper.c"

#include <fnmatch.h>
#include <limits.h>
#include <setjmp.h>
#include <stddef.h>

#include "fuzz.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define USED(p) (void)(p)

enum { ARGS_MAX = 16, STRINGS_MAX = 4096, A_SOCKET = 1000, A_FILE };
enum { RETURNED = -1 };

static const char *const variables[] = { "LISTEN_PID", "LISTEN_FDS",
	"NOTIFY_SOCKET" };

/* As in trace.c, and in the same order. */
static const char *const points[TRACE_MAX] = { "client_accept",
	"client_handoff", "request", "request_refused", "sg_io", "sg_done",
	"dm_map", "path_done", "path_step", "reply", "client_quiet",
	"client_close" };

static char strings[STRINGS_MAX]; /* of the input, one behind the other */
static char *args[ARGS_MAX + 2];
static int nargs;
static const char *listen_pid, *listen_fds, *address;
static char *events; /* what is in a file of them; NULL: there is none */
static const char *next_event;
static FILE *event_file;
static char *copy; /* of an argument */
static int files;  /* that are open */
static jmp_buf end;

/* The process would end. */
void
exit(int status)
{
	must(status == 0 || status == 1, "an exit status is 0 or 1");
	longjmp(end, 1 + status);
}

/* A trace file; it would be made. */
int
open(const char *path, int flags, ...)
{
	must(flags & O_CLOEXEC && flags & O_APPEND, "a trace file is added to");
	files++;
	if (*path)
		return A_FILE;
	files--;
	errno = ENOENT;
	return -1;
}

int
close(int fd)
{
	must(fd == A_FILE || fd == A_SOCKET, "only what was opened is closed");
	files -= fd == A_FILE;
	return 0;
}

static ssize_t
read_events(void *at, char *buf, size_t size)
{
	const char **p = at;
	size_t n = strlen(*p);

	if (n > size)
		n = size;
	memcpy(buf, *p, n);
	*p += n;
	return (ssize_t)n;
}

static int
close_events(void *at)
{
	USED(at);
	event_file = NULL;
	return 0;
}

FILE *
fopen(const char *path, const char *mode)
{
	static const cookie_io_functions_t io = { .read = read_events,
		.close = close_events };

	USED(path);
	must(!event_file, "one file after the other");
	must(strchr(mode, 'e') != NULL, "it is not inherited");
	errno = ENOENT;
	next_event = events;
	if (events)
		event_file = fopencookie(&next_event, "r", io);
	return event_file;
}

/* As long as the string; what a process leaves that ends is no leak. */
char *
strdup(const char *s)
{
	size_t len = strlen(s) + 1;

	copy = realloc(copy, len);
	return copy ? memcpy(copy, s, len) : NULL;
}

void
free(void *p)
{
	must(p == copy, "only what was copied is freed");
}

static void
clean_up(void)
{
	if (event_file)
		fclose(event_file);
}

int
poll(struct pollfd *p, nfds_t n, int ms)
{
	USED(p);
	must(n == 1 && ms == 0, "a message does not wait");
	return 1;
}

/* A line of a message. */
ssize_t
write(int fd, const void *line, size_t len)
{
	const char *s = line;

	must(fd == 2 && len > 10 && memcmp(s, "prhelper: ", 10) == 0,
	    "a message says who speaks");
	must(len < PATH_MAX + 256 && s[len - 1] == '\n' &&
	    !memchr(s, '\0', len), "it is a line, and has room");
	return (ssize_t)len;
}

int
socket(int domain, int type, int protocol)
{
	USED(domain);
	USED(type);
	USED(protocol);
	return A_SOCKET;
}

ssize_t
sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to,
    socklen_t len)
{
	const struct sockaddr_un *sun = (const void *)to;
	size_t size = len - offsetof(struct sockaddr_un, sun_path);

	USED(flags);
	must(fd == A_SOCKET && n == 7 && memcmp(p, "READY=1", n) == 0,
	    "the manager is told that we are ready");
	must(len <= sizeof(*sun) && size == strlen(address) &&
	    memcmp(sun->sun_path + 1, address + 1, size - 1) == 0 &&
	    sun->sun_path[0] == (address[0] == '@' ? '\0' : '/'),
	    "at the address that it has named");
	return (ssize_t)n;
}

/* Is this text just that number? */
UNCOUNTED static int
is_number(const char *s, long want)
{
	long n = 0;

	if (!*s)
		return 0;
	for (; *s >= '0' && *s <= '9'; s++)
		if (n <= INT_MAX)
			n = n * 10 + *s - '0';
	return !*s && n == want;
}

/* 1 or 0: as sock_activated() returns; RETURNED: it dies. */
static int
want_activated(void)
{
	if (!listen_pid || !listen_fds || !is_number(listen_pid, getpid()) ||
	    strcmp(listen_fds, "0") == 0)
		return 0;
	return is_number(listen_fds, 1) ? 1 : RETURNED;
}

static void
activation(void)
{
	volatile int r = RETURNED;

	if (!setjmp(end))
		r = sock_activated();
	must(r == want_activated(), "one socket that is meant for us");
}

static int
in_args(const char *s)
{
	return !s || (s >= strings && s < strings + sizeof(strings) - 1);
}

/* Each argument as a pattern, and what fnmatch(3) thinks of it. */
static void
patterns(const char *s)
{
	int i, any = 0;

	/* Both are special to fnmatch() alone, or to trace_option(). */
	if (strpbrk(s, "[,=") || !strcmp(s, "help") || !strcmp(s, "?"))
		return;
	memset(tracing, 0, sizeof(tracing));
	if (!setjmp(end)) {
		trace_option(s);
		any = 1;
	}
	clean_up();
	for (i = 0; i < TRACE_MAX; i++)
		must(tracing[i] == !fnmatch(s, points[i], FNM_NOESCAPE),
		    "a pattern fits what it should");
	must(any == !!memchr(tracing, 1, TRACE_MAX),
	    "one that fits nothing is refused");
}

/* Is one of the arguments, or a part of one, a request for some text? */
static int
asks_for_text(void)
{
	int i;

	for (i = 1; i < nargs; i++)
		if (strpbrk(args[i], "hV?") || strstr(args[i], "--vers"))
			return 1;
	return events && strpbrk(events, "h?");
}

static void
command_line(void)
{
	static struct options none, o; /* outlive longjmp() */
	int i, status;

	memset(tracing, 0, sizeof(tracing));
	o = none;
	optind = 0; /* glibc: begin anew */
	status = setjmp(end);
	if (status == 0)
		parse(&o, nargs, args);
	clean_up();
	must(files <= 1, "there is one trace file at most");
	for (i = 0; i < TRACE_MAX; i++)
		must(tracing[i] <= 1, "a trace point is on, or off");
	if (status == 1)
		must(asks_for_text(), "the end is only good for who asks");
	if (status)
		return;
	must(optind == nargs, "nothing is left over");
	must(in_args(o.socket) && in_args(o.pidfile) && in_args(o.user) &&
	    in_args(o.group), "a value is one of the arguments");
	must(!o.socket || o.socket[0] == '/', "a socket has its whole path");
	must(verbosity >= LOG_ERRORS && verbosity < 1 + STRINGS_MAX,
	    "verbosity is as it was asked for");
}

/* A @ at its end is our pid. */
static void
set_variable(const char *name, const char *value)
{
	char text[STRINGS_MAX + 16];
	size_t len = strlen(value);

	if (len > 0 && value[len - 1] == '@')
		snprintf(text, sizeof(text), "%.*s%ld", (int)len - 1, value,
		    (long)getpid());
	else
		snprintf(text, sizeof(text), "%s", value);
	setenv(name, text, 1);
}

/* The strings of the input. */
static void
split(const uint8_t *data, size_t size)
{
	char *s, *v;
	size_t i, n;

	memcpy(strings, data, size);
	strings[size] = '\0';
	args[0] = strings + size;
	nargs = 1;
	listen_pid = listen_fds = address = NULL;
	events = NULL;
	for (i = 0; i < LEN(variables); i++)
		unsetenv(variables[i]);
	for (s = strings; s < strings + size; s += strlen(s) + 1) {
		v = strchr(s, '=');
		n = v ? (size_t)(v - s) : 0;
		if (n == 6 && memcmp(s, "EVENTS", n) == 0) {
			events = v + 1;
			continue;
		}
		for (i = 0; i < LEN(variables); i++)
			if (n == strlen(variables[i]) &&
			    memcmp(s, variables[i], n) == 0)
				break;
		if (i < LEN(variables))
			set_variable(variables[i], v + 1);
		else if (nargs < ARGS_MAX)
			args[nargs++] = s;
	}
	args[nargs] = NULL;
	listen_pid = getenv("LISTEN_PID");
	listen_fds = getenv("LISTEN_FDS");
	address = getenv("NOTIFY_SOCKET");
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	USED(argc);
	USED(argv);
	/* What is printed for -h is for nobody. */
	return freopen("/dev/null", "w", stdout) ? 0 : 1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int i;

	if (size >= STRINGS_MAX)
		return 0;
	split(data, size);
	verbosity = 0;
	activation();
	notify("READY=1");
	for (i = 1; i < nargs; i++)
		patterns(args[i]);
	command_line();
	return 0;
}
