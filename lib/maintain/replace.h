/* Registering merged files in the place of their inputs. */
#ifndef PGS_MAINTAIN_REPLACE_H
#define PGS_MAINTAIN_REPLACE_H

#include "content/levels.h"
#include "content/sorted_writer.h"
#include "maintain/worker.h"

/* The largest table that is given whole in an l/ value, so that several fit one request. */
size_t pgs__table_max(const pgs__worker *w);

typedef enum pgs__replaced {
	PGS__REPLACED_NO,     /* certainly nothing of it happened: the outputs may be removed */
	PGS__REPLACED_PARTLY, /* or that is not known: what is registered must stay */
	PGS__REPLACED_ALL
} pgs__replaced;

/* Put the l/ keys of the outputs, delete those of the inputs and put their d/ keys: in one fenced step if that fits a
 * transaction, else the outputs first, so that nothing is ever missing. Each step compares inputs as they were
 * registered. PGS_OK, also when a compare failed (*done tells), or the KV's errors, ENOMEM. */
int pgs__files_replace(pgs__worker *w, const pgs__claim *claim, uint64_t base_revision, pgs__file *const *inputs,
		       size_t input_count, const pgs__sorted_file *outputs, size_t output_count, pgs__replaced *done);

/* Register a file in another level, as it is. */
int pgs__file_move(pgs__worker *w, const pgs__claim *claim, uint64_t base_revision, const pgs__file *file,
		   uint8_t level, pgs__replaced *done);

#endif
