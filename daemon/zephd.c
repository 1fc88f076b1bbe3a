/* zephd: keeps a chat model in memory and serves it on a Unix socket. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/server.h"

#define EXIT_CONFIG 78 /* EX_CONFIG: systemd does not start it again */

/* Before any thread starts: signals are the loop's; a lost reader and a file that may not grow
 * (ulimit -f) are error codes. */
static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
	struct options options;
	struct config config;
	struct server *server;
	char error[1024];
	int r;

	r = options_parse(argc, argv, &options);
	if (r != 0)
		return r < 0 ? 2 : 0;
	r = config_load(&options, &config, error, sizeof(error));
	if (r < 0) {
		log_error("%s", error);
		return EXIT_CONFIG;
	}
	if (options.check_config) {
		printf("%s: good\n", config.file ? config.file : "no configuration file");
		config_done(&config);
		return 0;
	}
	if (!config.model.path) {
		log_error("no model: --model FILE or model.path in the configuration names one");
		config_done(&config);
		return EXIT_CONFIG;
	}
	block_signals();
	r = server_new(&options, &config, &server);
	r = r < 0 ? 1 : server_run(server);
	server_free(server);
	return r;
}
