/* Seeded random numbers: splitmix64. Each use has a stream of its own, so that changing one (a fault kind switched
 * off, say) leaves the others as they were. Never draw twice in one call's arguments: compilers differ in their order.
 */
#ifndef PGS_SIM_RNG_H
#define PGS_SIM_RNG_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sim_rng {
	uint64_t state;
} sim_rng;

static inline uint64_t rng_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline sim_rng rng_stream(uint64_t seed, uint64_t stream)
{
	return (sim_rng){rng_mix(seed * 0x9e3779b97f4a7c15 + rng_mix(stream + 1))};
}

static inline uint64_t rng_next(sim_rng *r)
{
	return rng_mix(r->state += 0x9e3779b97f4a7c15);
}

/* 0 … below - 1; below may be 0, and then it is 0. */
static inline uint64_t rng_below(sim_rng *r, uint64_t below)
{
	uint64_t n = rng_next(r);
	return below ? n % below : 0;
}

static inline bool rng_chance(sim_rng *r, uint32_t of, uint32_t in)
{
	return rng_below(r, in) < of;
}

#endif
