/* The first fenced code block of a text in Markdown. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Finds what stands between the first fence (three or more backticks or tildes, at most three
 * spaces before it) and its end. A block that the text's end leaves open counts only where
 * `open_too`. True: the block is [*ret_at, *ret_at + *ret_len) with its last newline. Source:
 * CommonMark 0.31, fenced code blocks. */
bool extract_block(const char *text, size_t n, bool open_too, size_t *ret_at, size_t *ret_len);
