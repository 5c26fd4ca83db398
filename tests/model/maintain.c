/* What maintenance workers do. */
#include "sim.h"

void op_maintain(sim_client *c)
{
	(void)c;
}

void op_pin(sim_client *c)
{
	(void)c;
}

void op_snapshot_create(sim_client *c)
{
	(void)c;
}

void op_snapshot_read(sim_client *c)
{
	(void)c;
}

void op_snapshot_drop(sim_client *c)
{
	(void)c;
}

void op_levels(sim_client *c)
{
	(void)c;
}

void client_drop_pin(sim_client *c)
{
	(void)c;
}

void audit_collection(sim_client *c)
{
	(void)c;
}
