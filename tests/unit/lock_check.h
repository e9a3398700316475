/* A lock that somebody forgot to release: the chipset's is recursive, so only another thread can tell. */
#ifndef XHYVE_TEST_LOCK_CHECK_H
#define XHYVE_TEST_LOCK_CHECK_H

#include <pthread.h>

static void *lock_check_thread(void *arg)
{
    pthread_mutex_t *lock = arg;
    if (pthread_mutex_trylock(lock) != 0)
        return NULL;
    pthread_mutex_unlock(lock);
    return lock;
}

static inline void assert_lock_free(pthread_mutex_t *lock)
{
    pthread_t t;
    void *was_free = NULL;
    assert_int_equal(pthread_create(&t, NULL, lock_check_thread, lock), 0);
    pthread_join(t, &was_free);
    assert_non_null(was_free);
}

#endif
