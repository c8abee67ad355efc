/* See LICENSE file for copyright and license details. */
/*
 * Fuzzing of dm.c: the lines that device-mapper returns. libdevmapper and
 * path.c are this file's.
 *
 * An input that begins with a printable character is the status line of a
 * multipath target, for dm_parse(). One that begins with a control character
 * is a row of answers to dm_read() and dm_queues(), one for each question: a
 * byte that says what is odd about it, the type of the target, its line, and a
 * line feed. Behind a byte that is no ASCII there is a map, field by field,
 * whose line must be understood.
 */
#include "../../dm.c"

#include <stdlib.h>

#include "fuzz.h"

enum { SIZE = 1000, ASKED_MAX = 2 * (LEVELS + 1), LINE_MAX_LEN = 16384 };

/* What is odd about an answer. */
enum { FAILS = 1, LATER = 2, ANOTHER = 4, NO_LINE = 8, OTHER_SIZE = 16 };

struct dm_task {
	int kind;
	unsigned int odd;
	char *type, *line; /* in one piece; NULL: there is no target */
};

static struct input answers;
static int tasks, asked;
static unsigned int seen; /* of what is odd, and makes it no map */

int64_t
now(void)
{
	return 0;
}

/* Of three paths one has no name, and some have another. */
int
path_wwid(dev_t dev, char wwid[WWID_LEN])
{
	if (minor(dev) % 3 == 0)
		return -1;
	snprintf(wwid, WWID_LEN, minor(dev) == 7 ? "naa.2" : "naa.1");
	return 0;
}

uint64_t
path_size(dev_t dev)
{
	(void)dev;
	return SIZE;
}

struct dm_task *
dm_task_create(int type)
{
	struct dm_task *t = NULL;

	if (answers.p == answers.end || !(t = calloc(1, sizeof(*t))))
		return NULL;
	t->kind = type;
	tasks++;
	return t;
}

void
dm_task_destroy(struct dm_task *t)
{
	tasks--;
	free(t->type);
	free(t);
}

int
dm_task_set_major_minor(struct dm_task *t, int ma, int mi, int fallback)
{
	(void)t;
	(void)ma;
	(void)mi;
	return !fallback;
}

int
dm_task_no_flush(struct dm_task *t)
{
	(void)t;
	return 1;
}

int
dm_task_no_open_count(struct dm_task *t)
{
	(void)t;
	return 1;
}

int
dm_task_set_message(struct dm_task *t, const char *message)
{
	(void)t;
	(void)message;
	return 1;
}

/* The next answer of the input, in memory that is as long as it. */
int
dm_task_run(struct dm_task *t)
{
	const char *p, *end;
	size_t len;

	asked++;
	t->odd = byte(&answers);
	p = (const char *)answers.p;
	len = (size_t)(answers.end - answers.p);
	end = len ? memchr(p, '\n', len) : NULL;
	if (end)
		len = (size_t)(end - p);
	answers.p += len + (end != NULL);
	t->type = malloc(len + 1);
	memcpy(t->type, p, len);
	t->type[len] = '\0';
	t->line = strchr(t->type, ' ');
	if (t->line)
		*t->line++ = '\0';
	else
		t->line = t->type + strlen(t->type);
	return !(t->odd & FAILS);
}

int
dm_task_get_errno(struct dm_task *t)
{
	static const int errors[] = { ENXIO, ENOMEM, EINTR, EPERM, 0 };

	return errors[(t->odd >> 1) % 5];
}

void *
dm_get_next_target(struct dm_task *t, void *next_target, uint64_t *start,
    uint64_t *len, char **type, char **params)
{
	must(!next_target, "one target is enough");
	seen |= t->odd & (LATER | ANOTHER | NO_LINE |
	    (t->kind == DM_DEVICE_TABLE ? OTHER_SIZE : 0));
	*start = t->odd & LATER ? 8 : 0;
	*len = t->odd & OTHER_SIZE ? SIZE + 1 : SIZE;
	*type = t->type[0] ? t->type : NULL;
	*params = t->odd & NO_LINE || !t->type[0] ? NULL : t->line;
	return t->odd & ANOTHER ? t : NULL;
}

int
dm_driver_version(char *buf, size_t size)
{
	snprintf(buf, size, "4.47.0");
	return 1;
}

void
dm_hold_control_dev(int hold)
{
	(void)hold;
}

void
dm_log_with_errno_init(dm_log_with_errno_fn fn)
{
	(void)fn;
}

void
dm_lib_exit(void)
{
}

/* Is this what mpath.c may rely on? */
UNCOUNTED static int
valid(const struct map *m)
{
	int i, j;

	if (m->n < 0 || m->n > PATHS_MAX || m->group < 0)
		return 0;
	for (i = 0; i < m->n; i++) {
		if (m->paths[i].active > 1 || m->paths[i].mute ||
		    m->paths[i].group < (i ? m->paths[i - 1].group : 1))
			return 0;
		for (j = 0; j < i; j++)
			if (m->paths[j].dev == m->paths[i].dev)
				return 0;
	}
	return 1;
}

/* The shortest line that says the same; or one with a second active group. */
UNCOUNTED static void
print(char *s, const struct map *m, int second)
{
	int g, i = 0, first, last = m->group;

	if (m->n && m->paths[m->n - 1].group > last)
		last = m->paths[m->n - 1].group;
	s += sprintf(s, "0 0 %d %d", last, m->group);
	for (g = 1; g <= last; g++) {
		for (first = i; i < m->n && m->paths[i].group == g; i++)
			;
		s += sprintf(s, " %c 0 %d 0",
		    g == m->group || g == second ? 'A' : 'E', i - first);
		for (; first < i; first++)
			s += sprintf(s, " %u:%u %c 0",
			    major(m->paths[first].dev),
			    minor(m->paths[first].dev),
			    m->paths[first].active ? 'A' : 'F');
	}
}

/* Is each path in the line, with its letter behind it, in this order? */
UNCOUNTED static int
listed(const char *line, const struct map *m)
{
	unsigned long ma, mi;
	char *end;
	int i = 0;

	while (i < m->n && *line) {
		line += strspn(line, " ");
		ma = strtoul(line, &end, 10);
		mi = *end == ':' ? strtoul(end + 1, &end, 10) : 0;
		end += strspn(end, " ");
		i += ma == major(m->paths[i].dev) &&
		    mi == minor(m->paths[i].dev) &&
		    *end == (m->paths[i].active ? 'A' : 'F');
		line += strcspn(line, " ");
	}
	return i == m->n;
}

/* How many words could be the letter of a group? */
UNCOUNTED static int
letters(const char *line)
{
	size_t len;
	int n = 0;

	while (*(line += strspn(line, " "))) {
		len = strcspn(line, " ");
		n += len == 1 && strchr("ADE", *line);
		line += len;
	}
	return n;
}

UNCOUNTED static int
same(const struct map *a, const struct map *b)
{
	int i;

	if (a->n != b->n || a->group != b->group)
		return 0;
	for (i = 0; i < a->n; i++)
		if (a->paths[i].dev != b->paths[i].dev ||
		    a->paths[i].active != b->paths[i].active ||
		    a->paths[i].group != b->paths[i].group)
			return 0;
	return 1;
}

static void
parse_line(const uint8_t *data, size_t size)
{
	static struct {
		struct map m;
		uint8_t behind[sizeof(struct path)];
	} r;
	static char text[LINE_MAX_LEN];
	struct map again;
	char *line = malloc(size + 1);

	memcpy(line, data, size);
	line[size] = '\0';
	memset(&r.m, 0xee, sizeof(r.m));
	if (dm_parse(line, &r.m) == 0) {
		must(valid(&r.m), "what is accepted makes sense");
		must(listed(line, &r.m), "each path is in the line");
		must(r.m.group <= letters(line), "a group in use is there");
		print(text, &r.m, 0);
		must(dm_parse(text, &again) == 0 && same(&r.m, &again),
		    "what is accepted means the same in other words");
	}
	must(r.m.n >= 0 && r.m.n <= PATHS_MAX, "no more paths than fit");
	must(!r.behind[0] && !memcmp(r.behind, r.behind + 1,
	    sizeof(r.behind) - 1), "nothing is behind the last path");
	free(line);
}

/* A map that can be, in words, is understood. */
static void
understand(struct input *in)
{
	static char text[LINE_MAX_LEN];
	struct map m, again;
	unsigned int group = 1, n = byte(in) % (PATHS_MAX + 1);

	memset(&m, 0, sizeof(m));
	for (; m.n < (int)n; m.n++) {
		group += byte(in) % 4 == 0;
		m.paths[m.n].dev = makedev(byte(in) << 4,
		    (unsigned int)m.n << 8 | byte(in));
		m.paths[m.n].active = byte(in) % 2;
		m.paths[m.n].group = (int)group;
	}
	m.group = (int)(byte(in) % (group + 1));
	print(text, &m, 0);
	must(dm_parse(text, &again) == 0 && same(&m, &again),
	    "a line of the kernel's is understood");
	if (m.group < 2 || n == 0)
		return;
	print(text, &m, m.group - 1);
	must(dm_parse(text, &again) < 0, "two groups cannot be active");
}

static void
look_around(void)
{
	char first[WWID_LEN] = "", wwid[WWID_LEN];
	struct map m;
	int i, r;

	asked = 0;
	seen = 0;
	memset(&m, 0, sizeof(m));
	r = dm_read(makedev(253, 0), &m, 1);
	must(asked <= ASKED_MAX, "it comes to an end");
	must(r == DM_MAP || r == DM_OTHER || r == DM_BUSY || r == DM_BROKEN,
	    "an answer is one of those that there are");
	for (i = 0; r == DM_MAP && i < m.n; i++) {
		if (path_wwid(m.paths[i].dev, wwid) < 0)
			continue;
		if (!first[0])
			memcpy(first, wwid, sizeof(first));
		must(strcmp(first, wwid) == 0, "all paths have one name");
	}
	must(r != DM_MAP || valid(&m), "a map makes sense");
	must(r != DM_MAP || !seen, "it is the whole of its device");
	must(r != DM_MAP || strcmp(first, m.wwid) == 0, "it is the map's");
	r = dm_queues(&m);
	must(r == 0 || r == 1, "it queues, or does not");
	must(dm_use_path(&m, makedev(8, 0), 1) <= 0, "a message has an end");
	must(tasks == 0, "all tasks are destroyed");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	answers.p = data;
	answers.end = data + size;
	present = 1;
	quiet_until = 1;
	if (size > 0 && data[0] < ' ')
		look_around();
	else if (size > 0 && byte(&answers) > '~')
		understand(&answers);
	else if (!memchr(data, '\0', size))
		parse_line(data, size);
	return 0;
}
