/* See LICENSE file for copyright and license details. */
/*
 * What the fuzz targets share: an input that is read from both ends, and what
 * happens if something is not as it must be. After its end an input says 0.
 * stdint.h, stdio.h and stdlib.h come first.
 */

/* Of a judge: which way it went is nothing that an input should look for. */
#define UNCOUNTED __attribute__((no_sanitize("coverage")))

struct input {
	const uint8_t *p, *end;
};

/* libFuzzer calls these. */
int LLVMFuzzerTestOneInput(const uint8_t *, size_t);
int LLVMFuzzerInitialize(int *, char ***);

static inline unsigned int
byte(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

/* From the other end: decisions that are no part of what is sent. */
static inline unsigned int
last_byte(struct input *in)
{
	return in->p < in->end ? *--in->end : 0;
}

static inline void
must(int so, const char *sentence)
{
	if (so)
		return;
	fprintf(stderr, "not so: %s\n", sentence);
	abort();
}
