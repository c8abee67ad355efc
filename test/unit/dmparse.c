/* See LICENSE file for copyright and license details. */
/*
 * Status lines of the multipath target: what dm_parse() makes of good ones,
 * and that it refuses the others. Each line is parsed in a piece of memory
 * that is as long as the line, so that AddressSanitizer sees who reads on.
 */
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../prhelper.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum { BIG = 8192 };

struct line {
	const char *name, *line;
	const char *want; /* M:m, A or F, * if current; each with a space */
};

/* As drivers/md/dm-mpath.c and the dm-ps-*.c beside it write them. */
static const struct line good[] = {
	{ "round-robin, two groups",
	  "2 0 0 0 2 1 A 0 2 0 8:16 A 0 8:32 F 3 E 0 1 0 8:48 A 0 ",
	  "8:16A* 8:32F* 8:48A " },
	{ "service-time",
	  "2 0 0 0 2 1 A 0 2 2 8:16 A 0 0 1 8:32 F 3 0 1 "
	  "E 0 1 2 8:48 A 0 0 1 ",
	  "8:16A* 8:32F* 8:48A " },
	{ "without a space at the end",
	  "2 0 0 0 1 1 A 0 1 2 8:16 A 0 0 1", "8:16A* " },
	{ "queue-length",
	  "2 0 0 0 1 1 A 0 2 1 65:16 A 0 7 135:240 A 12 0 ",
	  "65:16A* 135:240A* " },
	{ "historical-service-time",
	  "2 0 0 0 1 1 A 2 972 0 2 3 8:0 A 0 1024 0 0 "
	  "8:16 A 0 18014398509481983 4 18446744073709551615 ",
	  "8:0A* 8:16A* " },
	{ "io-affinity, misses counted over",
	  "2 0 0 0 1 1 A 0 2 1 8:0 A 0 -7 8:16 F 1 -7 ", "8:0A* 8:16F* " },
	{ "pg_init under way", "2 1 4 0 1 1 A 0 1 0 8:0 A 0 ", "8:0A* " },
	{ "no features at all", "0 0 1 1 A 0 1 0 8:0 A 0 ", "8:0A* " },
	{ "words of a hardware handler",
	  "2 0 0 3 alua 1 x 1 1 A 0 1 0 8:0 A 0 ", "8:0A* " },
	{ "features with words",
	  "3 A queue_mode bio 0 1 1 A 0 1 0 8:0 A 0 ", "8:0A* " },
	{ "no group yet: the first", "2 0 0 0 2 1 E 0 1 0 8:0 A 0 "
	  "E 0 1 0 8:16 A 0 ", "8:0A* 8:16A " },
	{ "no group yet: the second", "2 0 0 0 2 2 E 0 1 0 8:0 A 0 "
	  "E 0 1 0 8:16 A 0 ", "8:0A 8:16A* " },
	{ "the second is active, the first the next", "2 0 0 0 2 1 "
	  "E 0 1 0 8:0 A 0 A 0 1 0 8:16 A 0 ", "8:0A 8:16A* " },
	{ "the first is active, the second the next", "2 0 0 0 2 2 "
	  "A 0 1 0 8:0 A 0 E 0 1 0 8:16 A 0 ", "8:0A* 8:16A " },
	{ "a disabled group", "2 0 0 0 2 2 D 0 1 0 8:0 F 1 "
	  "A 0 1 0 8:16 A 0 ", "8:0F 8:16A* " },
	{ "many failures", "2 0 0 0 1 1 A 0 1 0 8:0 F 4294967295 ",
	  "8:0F* " },
	{ "large numbers", "2 0 0 0 1 1 A 0 1 0 4095:1048575 A 0 ",
	  "4095:1048575A* " },
	{ "other nodes", "2 0 0 0 1 1 A 0 2 0 259:3 A 0 253:7 A 0 ",
	  "259:3A* 253:7A* " },
	{ "no group", "2 0 0 0 0 0 ", "" },
	{ "no group, without a space", "2 0 0 0 0 0", "" },
};

static const struct line bad[] = {
	{ "empty", "", "" },
	{ "a space", " ", "" },
	{ "no number", "x 0 0 0 0 0", "" },
	{ "negative features", "-1 0 0 0", "" },
	{ "a plus", "+0 0 0 0", "" },
	{ "hexadecimal", "0x0 0 0 0", "" },
	{ "a number with more behind it", "0a 0 0 0", "" },
	{ "more features than words", "99 0 0 0 0 0", "" },
	{ "a count of ten digits", "4294967296 0 0 0", "" },
	{ "a count of many digits", "2 0 0 0 99999999999999999999999 1", "" },
	{ "a huge count", "2 0 0 999999999 0 0", "" },
	{ "groups that are not there", "2 0 0 0 3 1 A 0 1 0 8:0 A 0 ", "" },
	{ "words behind the last group",
	  "2 0 0 0 1 1 A 0 1 0 8:0 A 0 8:16 A 0 ", "" },
	{ "words behind no group", "2 0 0 0 0 0 A 0 1 0 8:0 A 0 ", "" },
	{ "the next group is not there", "2 0 0 0 1 2 A 0 1 0 8:0 A 0 ", "" },
	{ "the next group is negative", "2 0 0 0 1 -1 A 0 1 0 8:0 A 0 ",
	  "" },
	{ "a next group of none", "2 0 0 0 0 1 ", "" },
	{ "group letter F", "2 0 0 0 1 1 F 0 1 0 8:0 A 0 ", "" },
	{ "group letter a", "2 0 0 0 1 1 a 0 1 0 8:0 A 0 ", "" },
	{ "group of two letters", "2 0 0 0 1 1 AE 0 1 0 8:0 A 0 ", "" },
	{ "two active groups", "2 0 0 0 2 1 A 0 1 0 8:0 A 0 "
	  "A 0 1 0 8:16 A 0 ", "" },
	{ "path letter E", "2 0 0 0 1 1 A 0 1 0 8:0 E 0 ", "" },
	{ "path letter AF", "2 0 0 0 1 1 A 0 1 0 8:0 AF 0 ", "" },
	{ "no letter", "2 0 0 0 1 1 A 0 1 0 8:0 0 ", "" },
	{ "failures that are no number", "2 0 0 0 1 1 A 0 1 0 8:0 A x ", "" },
	{ "negative failures", "2 0 0 0 1 1 A 0 1 0 8:0 A -1 ", "" },
	{ "a path by name", "2 0 0 0 1 1 A 0 1 0 sda A 0 ", "" },
	{ "a path without minor", "2 0 0 0 1 1 A 0 1 0 8: A 0 ", "" },
	{ "a path without major", "2 0 0 0 1 1 A 0 1 0 :0 A 0 ", "" },
	{ "a path of one number", "2 0 0 0 1 1 A 0 1 0 8 A 0 ", "" },
	{ "a path of three", "2 0 0 0 1 1 A 0 1 0 8:0:0 A 0 ", "" },
	{ "a path with a sign", "2 0 0 0 1 1 A 0 1 0 8:-0 A 0 ", "" },
	{ "a path with a large number",
	  "2 0 0 0 1 1 A 0 1 0 8:99999999999999999999 A 0 ", "" },
	{ "a path twice", "2 0 0 0 1 1 A 0 2 0 8:0 A 0 8:0 A 0 ", "" },
	{ "a path in two groups", "2 0 0 0 2 1 A 0 1 0 8:0 A 0 "
	  "E 0 1 0 8:0 A 0 ", "" },
	{ "more words for each path than there are",
	  "2 0 0 0 1 1 A 0 2 2 8:0 A 0 8:16 A 0 ", "" },
	{ "fewer words for each path than there are",
	  "2 0 0 0 1 1 A 0 2 0 8:0 A 0 1 8:16 A 0 1 ", "" },
	{ "a table line", "0 1 alua 1 1 service-time 0 1 2 8:16 1 1 ", "" },
	{ "tabs", "2\t0\t0\t0\t0\t0", "" },
	{ "two lines", "2 0 0 0 0 0\n2 0 0 0 0 0", "" },
};

static int tests, failed;

static void
check(int ok, const char *name, const char *what)
{
	printf("%sok %d - %s: %s\n", ok ? "" : "not ", ++tests, name, what);
	failed += !ok;
}

/* Parse the first len bytes; what came of it as text, NULL if refused. */
static const char *
parse(const char *line, size_t len)
{
	static char text[BIG];
	struct map m;
	char *exact = malloc(len + 1), *t = text;
	int i, r;

	memset(&m, 0xee, sizeof(m));
	memcpy(exact, line, len);
	exact[len] = '\0';
	r = dm_parse(exact, &m);
	free(exact);
	if (r < 0)
		return NULL;
	*t = '\0';
	for (i = 0; i < m.n; i++)
		t += sprintf(t, "%u:%u%c%s%s ", major(m.paths[i].dev),
			minor(m.paths[i].dev), m.paths[i].active ? 'A' : 'F',
			m.paths[i].group == m.group ? "*" : "",
			m.paths[i].mute ? "?" : "");
	return text;
}

/* Is this all of the line, but for the end of its last word? */
static int
whole(const char *line, size_t len)
{
	size_t last = strlen(line);

	while (last > 0 && line[last - 1] == ' ')
		last--;
	while (last > 0 && line[last - 1] != ' ')
		last--;
	return len > last;
}

static void
truncations(const struct line *l)
{
	const char *got;
	size_t n;
	int ok = 1;

	for (n = 0; n < strlen(l->line); n++) {
		got = parse(l->line, n);
		ok &= whole(l->line, n) ? got && strcmp(got, l->want) == 0 :
			!got;
	}
	check(ok, l->name, "refused wherever it is cut off");
}

static void
line(const struct line *l)
{
	const char *got = parse(l->line, strlen(l->line));

	check(got && strcmp(got, l->want) == 0, l->name, "understood");
	if (!got || strcmp(got, l->want) != 0)
		printf("# got %s\n# not %s\n", got ? got : "a refusal",
			l->want);
	truncations(l);
}

/* A line and what it means, of n paths in groups of two. */
static void
many(int n)
{
	static char text[BIG], want[BIG];
	struct line l = { "64 paths", text, want };
	char *t = text, *w = want;
	int i;

	t += sprintf(t, "2 0 0 0 %d 1 ", n / 2);
	for (i = 0; i < n; i++) {
		if (i % 2 == 0)
			t += sprintf(t, "%c 0 2 2 ", i ? 'E' : 'A');
		t += sprintf(t, "%d:%d %c 0 0 1 ", 65 + i / 16, i % 16 * 16,
			i % 3 ? 'A' : 'F');
		w += sprintf(w, "%d:%d%c%s ", 65 + i / 16, i % 16 * 16,
			i % 3 ? 'A' : 'F', i < 2 ? "*" : "");
	}
	if (n <= PATHS_MAX)
		line(&l);
	else
		check(!parse(text, strlen(text)), "66 paths", "refused");
}

/* Any byte of a good line changed: refused or understood, never read on. */
static void
changes(const struct line *l)
{
	static const char bytes[] = " 09-:AEFx\n\377";
	size_t len = strlen(l->line), n, i;
	char *copy = malloc(len + 1);

	for (n = 0; n < len; n++)
		for (i = 0; i < sizeof(bytes); i++) {
			memcpy(copy, l->line, len + 1);
			copy[n] = bytes[i];
			parse(copy, strlen(copy));
		}
	free(copy);
	check(1, l->name, "does no harm with any byte changed");
}

int
main(void)
{
	size_t i;

	for (i = 0; i < LEN(good); i++) {
		line(&good[i]);
		changes(&good[i]);
	}
	for (i = 0; i < LEN(bad); i++)
		check(!parse(bad[i].line, strlen(bad[i].line)), bad[i].name,
			"refused");
	many(PATHS_MAX);
	many(PATHS_MAX + 2);
	printf("1..%d\n", tests);
	return failed != 0;
}
