/* The pages and attributes that random workloads use: few, so that they meet; in a few groups, so that they are spread. */
#ifndef PGS_SIM_PAGES_H
#define PGS_SIM_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define SIM_PAGE_SIZE 512
#define SIM_GROUPS 4
#define SIM_GROUP_PAGES 8
#define SIM_PAGES (SIM_GROUPS * SIM_GROUP_PAGES)
#define SIM_ATTRS 3

/* Pages by index, 0 … SIM_PAGES - 1. */
uint64_t page_number(int index);
int page_index(uint64_t page_no); /* -1: none of ours */

const char *attr_name(int index);

/* The bytes of a value that is told by a number. */
void attr_value(uint32_t attr, uint8_t *out, size_t *size);

#endif
