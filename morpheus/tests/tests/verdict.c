/* Judges cases from standard input, one byte each to standard output: the scheduler's own decision, compiled natively. */
#include <stdio.h>
#include "morpheus_abi.h"
#include "verdict.h"

_Static_assert(sizeof(struct morpheus_case) == 56, "tests/verdict.rs writes 56 bytes for each case");

int main(void)
{
	struct morpheus_case one;

	while (fread(&one, sizeof(one), 1, stdin) == 1)
		putchar(morpheus_verdict(&one));
	return 0;
}
