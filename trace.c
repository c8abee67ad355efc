/* See LICENSE file for copyright and license details. */
/*
 * The trace: which points are on, and where their lines go. A point that is
 * off costs one comparison.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

enum { LINE_LEN = 512 };

static const char *const names[TRACE_MAX] = {
	[TRACE_ACCEPT] = "client_accept",
	[TRACE_HANDOFF] = "client_handoff",
	[TRACE_REQUEST] = "request",
	[TRACE_REFUSED] = "request_refused",
	[TRACE_SG_IO] = "sg_io",
	[TRACE_SG_DONE] = "sg_done",
	[TRACE_DM_MAP] = "dm_map",
	[TRACE_PATH_DONE] = "path_done",
	[TRACE_PATH_STEP] = "path_step",
	[TRACE_REPLY] = "reply",
	[TRACE_QUIET] = "client_quiet",
	[TRACE_CLOSE] = "client_close",
};

uint8_t tracing[TRACE_MAX];
static int sink = -1; /* -1: where messages go */

static void
list(void)
{
	int i;

	for (i = 0; i < TRACE_MAX; i++)
		puts(names[i]);
	exit(fflush(stdout) == 0 ? 0 : 1);
}

/* Does the name fit a pattern with * and ? in it? */
static int
matches(const char *pattern, const char *name)
{
	const char *star = NULL, *from = NULL;

	while (*name) {
		if (*pattern == '*') {
			star = ++pattern;
			from = name;
		} else if (*pattern == '?' || *pattern == *name) {
			pattern++;
			name++;
		} else if (star) {
			pattern = star;
			name = ++from;
		} else {
			return 0;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static void
enable(const char *pattern)
{
	int i, found = 0;

	if (strcmp(pattern, "help") == 0 || strcmp(pattern, "?") == 0)
		list();
	for (i = 0; i < TRACE_MAX; i++)
		if (matches(pattern, names[i]))
			found = tracing[i] = 1;
	if (!found)
		die("trace point %s: unknown; see -T help", pattern);
}

static void
enable_from(const char *path)
{
	char line[LINE_LEN], *s;
	FILE *f;

	if (!(f = fopen(path, "re")))
		die("trace events %s:", path);
	while (fgets(line, sizeof(line), f)) {
		s = line + strspn(line, " \t");
		s[strcspn(s, " \t\r\n")] = '\0';
		if (*s && *s != '#')
			enable(s);
	}
	if (ferror(f))
		die("trace events %s:", path);
	fclose(f);
}

static void
open_sink(const char *path)
{
	if (sink >= 0)
		close(sink);
	sink = open(
	    path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
	if (sink < 0)
		die("trace file %s:", path);
}

/* The value behind a key, or NULL if the option starts with another. */
static const char *
value(const char *opt, const char *key)
{
	size_t n = strlen(key);

	return strncmp(opt, key, n) == 0 && opt[n] == '=' ? opt + n + 1 : NULL;
}

void
trace_option(const char *arg)
{
	char *copy, *opt, *next;
	const char *v;

	if (!(copy = strdup(arg)))
		die("trace:");
	for (opt = copy; opt; opt = next) {
		if ((next = strchr(opt, ',')))
			*next++ = '\0';
		if ((v = value(opt, "events")))
			enable_from(v);
		else if ((v = value(opt, "file")))
			open_sink(v);
		else if ((v = value(opt, "enable")))
			enable(v);
		else if (opt == copy && !strchr(opt, '='))
			enable(opt);
		else
			die("trace option %s: unknown", opt);
	}
	free(copy);
}

void
trace_print(enum trace tp, const char *fmt, ...)
{
	char line[LINE_LEN];
	struct timespec ts;
	size_t len;
	va_list ap;
	int n, saved = errno;

	clock_gettime(CLOCK_REALTIME, &ts);
	n = snprintf(line, sizeof(line), "%lld.%06ld %s ", (long long)ts.tv_sec,
	    ts.tv_nsec / 1000, names[tp]);
	len = (size_t)n;
	va_start(ap, fmt);
	n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	len = strlen(line);
	if (sink < 0) {
		say(LOG_ERRORS, "%s", line);
	} else if (n >= 0) {
		line[len++] = '\n';
		/* A full disk loses trace lines, nothing else. */
		if (write(sink, line, len) < 0)
			errno = saved;
	}
	errno = saved;
}
