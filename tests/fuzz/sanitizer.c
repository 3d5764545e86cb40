/* What AddressSanitizer is to do in every fuzz target. A peer may announce a message of any size; memory that there is
 * not is an error like others, and the limit stands for that of a machine. */
const char *__asan_default_options(void);

const char *__asan_default_options(void) { return "allocator_may_return_null=1:max_allocation_size_mb=64"; }
