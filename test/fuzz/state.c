/* See LICENSE file for copyright and license details. */
/*
 * Fuzzing of state.c: the text of a state file, and what is written down.
 *
 * An input that begins with a letter is a text: what is accepted must make
 * sense and print as it was. Any other is a logical unit, field by field: what
 * is written of it must fit, and be read as the same unit. Behind a '!' its
 * name must make a file's name that no other unit has.
 */
#include "../../state.c"

#include "fuzz.h"

int64_t
now(void)
{
	return 0;
}

void
wait_until(int64_t t)
{
	(void)t;
}

/* A judge, too. */
UNCOUNTED static int valid(const struct lun *);
#include "../unit/valid.h"

UNCOUNTED static int
same(const struct lun *a, const struct lun *b)
{
	int i;

	if (strcmp(a->wwid, b->wwid) || a->key != b->key || a->old != b->old ||
	    a->changing != b->changing || a->ghosts != b->ghosts ||
	    a->aptpl != b->aptpl || a->map != b->map ||
	    a->holder != b->holder || a->n != b->n)
		return 0;
	for (i = 0; i < a->n; i++)
		if (a->marks[i].dev != b->marks[i].dev ||
		    a->marks[i].mark != b->marks[i].mark ||
		    a->marks[i].failed != b->marks[i].failed)
			return 0;
	return 1;
}

static uint64_t
wide(struct input *in)
{
	unsigned int n = byte(in) % 9;
	uint64_t v = 0;

	while (n-- > 0)
		v = v << 8 | byte(in);
	return v;
}

/* A unit as mpath.c may leave it; its name may hold anything. */
static void
make(struct lun *l, struct input *in)
{
	unsigned int i, n = byte(in);
	struct mark *m;
	int want, end;

	memset(l, 0, sizeof(*l));
	for (i = 0; i < n && i < WWID_LEN - 1; i++)
		if (!(l->wwid[i] = (char)byte(in)))
			break;
	if (!l->wwid[0])
		l->wwid[0] = '-';
	l->key = wide(in);
	l->old = wide(in);
	l->changing = byte(in) % 2;
	l->ghosts = (uint8_t)byte(in);
	l->aptpl = byte(in) % (APTPL_ON + 1);
	l->map = wide(in);
	l->holder = wide(in);
	/* As many as there is input for, or all: with the longest words. */
	want = (int)byte(in);
	for (; l->n < want && l->n < MARKS_MAX; l->n++) {
		end = in->p == in->end;
		if (end && l->ghosts != UINT8_MAX)
			break;
		m = &l->marks[l->n];
		m->dev = l->n ? m[-1].dev - 1 - byte(in) : wide(in);
		m->mark = end ? MARK_TAINTED : byte(in) % (MARK_TAINTED + 1);
		m->failed = byte(in) % 2;
	}
}

static void
written(struct input *in)
{
	char text[TEXT_MAX];
	struct lun l, again;
	size_t len;
	int r;

	make(&l, in);
	len = print(text, &l);
	must(len < TEXT_MAX, "what is written has room");
	must(strlen(text) == len, "it is text");
	r = state_parse(text, &again);
	/* A name of several lines is not understood, nor misunderstood. */
	must(r == 0 || strchr(l.wwid, '\n'), "what is written can be read");
	must(r < 0 || same(&l, &again), "it is read as it was");
}

static void
named(struct input *in)
{
	char name[NAME_LEN], wwid[WWID_LEN];
	struct lun l;

	make(&l, in);
	file_name(name, l.wwid);
	must(strlen(name) < NAME_LEN, "a file's name has room");
	must(!strchr(name, '/'), "it is in the directory");
	unit_name(wwid, name);
	must(strcmp(wwid, l.wwid) == 0, "no two units have the same file");
}

static void
read_text(const char *data, size_t size)
{
	char again[TEXT_MAX], *exact = malloc(size + 1);
	struct lun l;
	int r;

	/* As long as the text, so that who reads on is seen. */
	memcpy(exact, data, size);
	exact[size] = '\0';
	size = strlen(exact);
	memset(&l, 0xee, sizeof(l));
	r = state_parse(exact, &l);
	free(exact);
	if (r < 0)
		return;
	must(valid(&l), "what is accepted makes sense");
	must(print(again, &l) == size && memcmp(again, data, size) == 0,
	    "what is accepted prints as it was");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (size > 0 && isalpha(data[0]))
		read_text((const char *)data, size);
	else if (byte(&in) == '!')
		named(&in);
	else
		written(&in);
	return 0;
}
