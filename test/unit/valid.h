/* See LICENSE file for copyright and license details. */
/*
 * What unit tests and fuzzing of state.c share; string.h and prhelper.h come
 * first.
 */

/* Is this what mpath.c may rely on? */
static int
valid(const struct lun *l)
{
	int i, j;

	if (!memchr(l->wwid, '\0', WWID_LEN) || !l->wwid[0] || l->busy ||
	    l->changing > 1 || l->aptpl > APTPL_ON || l->warned || l->loaded ||
	    l->n < 0 || l->n > MARKS_MAX)
		return 0;
	for (i = 0; i < l->n; i++) {
		if (l->marks[i].mark > MARK_TAINTED || l->marks[i].failed > 1)
			return 0;
		for (j = 0; j < i; j++)
			if (l->marks[j].dev == l->marks[i].dev)
				return 0;
	}
	return 1;
}
