/* CUDA's runtime: memory, streams, events, graphs, launches.
 *
 * What is enqueued on a stream runs when somebody waits for it, or at once, as chance decides: host
 * code that reads or reuses memory too early finds it unchanged or changed. Device memory is the
 * heap's, so that ASan guards it. */
#include "shim_state.h"
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

struct shim_event {
	uint64_t recorded, done; /* how many records were enqueued, and ran */
	cudaStream_t last;
};
struct shim_graph {
	std::vector<std::function<void()>> nodes;
};
struct shim_graph_exec {
	std::shared_ptr<std::vector<std::function<void()>>> nodes;
};
struct shim_stream {
	const struct shim_stream_calls *calls; /* first: see shim.h */
	std::deque<std::function<void()>> queue;
	shim_graph *capture;
	bool running;
};

namespace
{
struct region {
	size_t bytes;
	bool device;
};
std::map<uintptr_t, region> regions;
std::vector<cudaStream_t> streams;
std::map<const void *, int> max_dynamic;
size_t memory = (size_t)1 << 40;
int n_cards = 1, arch = 90;
long lose_after = -1;
bool lost;
struct shim_statistics stats;

struct from_environment {
	from_environment()
	{
		const char *seed = getenv("ZEPH_SHIM_SEED"), *a = getenv("ZEPH_SHIM_ARCH");

		if (seed)
			shim::random_seed(strtoull(seed, NULL, 10));
		if (a)
			arch = atoi(a);
	}
} from_environment;

/* Of the region that holds all the bytes, or NULL. */
const region *region_of(const void *p, size_t bytes)
{
	auto after = regions.upper_bound((uintptr_t)p);

	if (after == regions.begin())
		return NULL;
	--after;
	if ((uintptr_t)p - after->first + bytes > after->second.bytes)
		return NULL;
	return &after->second;
}

bool on_device(const void *p, size_t bytes)
{
	const region *r = region_of(p, bytes);

	return r && r->device;
}

bool pinned(const void *p, size_t bytes)
{
	const region *r = region_of(p, bytes);

	return r && !r->device;
}

void run_one(cudaStream_t s)
{
	std::function<void()> work = std::move(s->queue.front());

	s->queue.pop_front();
	work();
}

void drain(cudaStream_t s)
{
	while (!s->queue.empty())
		run_one(s);
}

void enqueue(cudaStream_t s, std::function<void()> work)
{
	if (s->capture) {
		s->capture->nodes.push_back(std::move(work));
		return;
	}
	s->queue.push_back(std::move(work));
	for (uint64_t n = shim::random_next() % 3; n > 0 && !s->queue.empty(); n--)
		run_one(s);
}

void enqueue_for(void *stream, void (*work)(void *arg), void *arg)
{
	enqueue((cudaStream_t)stream, [=] { work(arg); });
}

int on_device_for(const void *p, size_t bytes)
{
	return on_device(p, bytes);
}

const struct shim_stream_calls stream_calls = {enqueue_for, on_device_for};

cudaError_t allocate(void **p, size_t bytes, bool device)
{
	void *at = NULL;

	if (lost)
		return cudaErrorIllegalAddress;
	if (device && (bytes > memory || stats.device_bytes > memory - bytes))
		return cudaErrorMemoryAllocation;
	if (posix_memalign(&at, 256, bytes) != 0)
		return cudaErrorMemoryAllocation;
	memset(at, 0xff, bytes);
	regions[(uintptr_t)at] = {bytes, device};
	(device ? stats.device_bytes : stats.pinned_bytes) += bytes;
	*p = at;
	return cudaSuccess;
}

cudaError_t release(void *p, bool device)
{
	if (!p)
		return cudaSuccess;
	auto at = regions.find((uintptr_t)p);
	if (at == regions.end() || at->second.device != device)
		shim::fail("%s of %p, which is no allocation", device ? "cudaFree" : "cudaFreeHost",
			p);
	for (cudaStream_t s : streams)
		drain(s); /* both wait for the device */
	(device ? stats.device_bytes : stats.pinned_bytes) -= at->second.bytes;
	regions.erase(at);
	free(p);
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

size_t shared_optin(void)
{
	switch (arch) {
	case 61: return 48 * 1024;
	case 75: return 64 * 1024;
	case 80: return 163 * 1024;
	case 86:
	case 89: return 99 * 1024;
	default: return 227 * 1024;
	}
}
} // namespace

extern "C" {
void shim_seed(uint64_t seed)
{
	shim::random_seed(seed);
}

void shim_arch(int a)
{
	arch = a;
}

void shim_cards(int n)
{
	n_cards = n;
}

void shim_memory(size_t bytes)
{
	memory = bytes;
}

void shim_lose_card(int after_launches)
{
	lose_after = after_launches;
	lost = after_launches == 0;
}

void shim_statistics(struct shim_statistics *ret)
{
	*ret = stats;
}

cudaError_t cudaGetDeviceCount(int *n)
{
	*n = n_cards;
	return n_cards > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version)
{
	*version = CUDART_VERSION;
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
	return device >= 0 && device < n_cards ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
	if (device < 0 || device >= n_cards)
		return cudaErrorInvalidDevice;
	memset(prop, 0, sizeof(*prop));
	snprintf(prop->name, sizeof(prop->name), "shim");
	prop->totalGlobalMem = memory;
	prop->sharedMemPerBlock = 48 * 1024;
	prop->sharedMemPerBlockOptin = shared_optin();
	prop->major = arch / 10;
	prop->minor = arch % 10;
	prop->multiProcessorCount = 4;
	prop->l2CacheSize = 1 << 20;
	return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
	*total_bytes = memory;
	*free_bytes = memory > stats.device_bytes ? memory - stats.device_bytes : 0;
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
	if (stats.device_bytes > 0)
		shim::fail("cudaDeviceReset while %zu bytes are allocated", stats.device_bytes);
	lost = false;
	lose_after = -1;
	return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
	for (cudaStream_t s : streams)
		drain(s);
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
	switch (e) {
	case cudaSuccess: return "no error";
	case cudaErrorMemoryAllocation: return "out of memory";
	case cudaErrorNoDevice: return "no CUDA-capable device is detected";
	case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
	default: return "invalid argument";
	}
}

cudaError_t shim_malloc(void **p, size_t bytes)
{
	return allocate(p, bytes, true);
}

cudaError_t cudaFree(void *p)
{
	return release(p, true);
}

cudaError_t shim_host_alloc(void **p, size_t bytes)
{
	return allocate(p, bytes, false);
}

cudaError_t cudaFreeHost(void *p)
{
	return release(p, false);
}

cudaError_t cudaMemcpyAsync(
	void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
	const bool to_device = kind != cudaMemcpyDeviceToHost,
		   from_device = kind != cudaMemcpyHostToDevice;
	const void *host = to_device ? from : to;

	if (lost)
		return cudaErrorIllegalAddress;
	if (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device)
		return cudaErrorInvalidValue;
	/* Memory that is not pinned is copied before the call returns. */
	if (kind != cudaMemcpyDeviceToDevice && !pinned(host, bytes) && !s->capture) {
		drain(s);
		memcpy(to, from, bytes);
		return cudaSuccess;
	}
	enqueue(s, [=] { memcpy(to, from, bytes); });
	return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
	if (lost)
		return cudaErrorIllegalAddress;
	if (!on_device(p, bytes))
		return cudaErrorInvalidValue;
	enqueue(s, [=] { memset(p, value, bytes); });
	return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
	(void)flags;
	*s = new shim_stream();
	(*s)->calls = &stream_calls;
	streams.push_back(*s);
	return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	drain(s);
	for (size_t i = 0; i < streams.size(); i++)
		if (streams[i] == s)
			streams.erase(streams.begin() + (long)i--);
	delete s;
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
	drain(s);
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
	const uint64_t wanted = e->recorded;

	(void)flags;
	enqueue(s, [=] {
		while (e->done < wanted)
			run_one(e->last);
	});
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
	(void)flags;
	*e = new shim_event();
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
	while (e->done < e->recorded)
		run_one(e->last);
	delete e;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
	e->recorded++;
	e->last = s;
	enqueue(s, [=] { e->done++; });
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
	while (e->done < e->recorded)
		run_one(e->last);
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t shim_func_set_attribute(const void *f, cudaFuncAttribute a, int value)
{
	(void)a;
	if ((size_t)value > shared_optin())
		return cudaErrorInvalidValue;
	max_dynamic[f] = value;
	return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **args)
{
	const shim::kernel *k = (const shim::kernel *)f;
	const dim3 g = c->gridDim, b = c->blockDim;
	const size_t shared = c->dynamicSmemBytes;
	const bool asked = max_dynamic.count(f) > 0;
	const size_t allowed = asked ? (size_t)max_dynamic[f] : 48 * 1024;
	const size_t most = asked ? shared_optin() : 48 * 1024;

	if (lose_after > 0 && --lose_after == 0)
		lost = true;
	if (lost)
		return cudaErrorIllegalAddress;
	if (b.x == 0 || b.y == 0 || b.z == 0 || g.x == 0 || g.y == 0 || g.z == 0 ||
		b.x * b.y * b.z > 1024 || b.z > 64 || g.x > 0x7fffffff || g.y > 65535 ||
		g.z > 65535 || shared > allowed)
		return cudaErrorInvalidConfiguration;
	if (b.x * b.y * b.z % shim::WARP != 0)
		shim::fail("%s: a block of %u threads is no whole number of warps", k->name,
			b.x * b.y * b.z);
	std::vector<char> copy((const char *)args[0], (const char *)args[0] + k->args_bytes);
	stats.launches++;
	enqueue(c->stream, [=] {
		/* aligned as a struct by value is */
		alignas(16) char aligned[4096];

		memcpy(aligned, copy.data(), copy.size());
		stats.runs++;
		shim::run_grid(k, aligned, g, b, shared, most);
	});
	return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode)
{
	(void)mode;
	if (s->capture)
		return cudaErrorInvalidValue;
	s->capture = new shim_graph();
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
	if (!s->capture)
		return cudaErrorInvalidValue;
	*graph = s->capture;
	s->capture = NULL;
	return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(
	cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
	(void)flags;
	*exec = new shim_graph_exec{
		std::make_shared<std::vector<std::function<void()>>>(graph->nodes)};
	stats.graphs++;
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	delete graph;
	return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
	delete exec;
	stats.graphs--;
	return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
	auto nodes = exec->nodes;

	if (lose_after > 0 && --lose_after == 0)
		lost = true;
	if (lost)
		return cudaErrorIllegalAddress;
	stats.graph_launches++;
	enqueue(s, [=] {
		for (const auto &node : *nodes)
			node();
	});
	return cudaSuccess;
}
}
