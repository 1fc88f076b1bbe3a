/* Hugging Face directories: not read yet. */
#include <errno.h>

#include "engine/source.h"

int source_read_hf(struct model_source *s, const char *path, const struct model_refusal *why)
{
	return model_refuse(why, -ENOTSUP, "a directory");
}
