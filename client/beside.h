/* Programs that come with the client and are not meant to be typed. */
#pragma once

/* Becomes the program of that name with these arguments (argv[0] is replaced). It lies beside the
 * running program, in the build tree's folder of it, or in libexecdir. Returns only where there is
 * none that can be run: a negative errno. */
int beside_exec(const char *name, const char *build_folder, char **argv);
