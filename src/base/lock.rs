//! Locks without poisoning.
//!
//! A panic while a lock is held (for example in a user's closure) does not poison it: each critical section keeps its
//! data consistent at every step, so the next holder can continue. One request fails, the layer does not.

use std::fmt;
pub(crate) use std::sync::MutexGuard;
use std::sync::{self, PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// A mutual exclusion lock that cannot be poisoned.
#[derive(Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Blocks until the lock is free.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `None` if the lock is held.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reader-writer lock that cannot be poisoned.
#[derive(Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Blocks until no writer holds the lock.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until the lock is free.
    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_under_a_lock_leaves_it_usable() {
        let (mutex, rw) = (Mutex::new(1), RwLock::new(1));
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let (_one, _other) = (mutex.lock(), rw.write());
            panic!("under two locks");
        }));
        *mutex.lock() += 1;
        *rw.write() += 1;
        assert_eq!((mutex.try_lock().map(|value| *value), *rw.read()), (Some(2), 2));
        let _held = mutex.lock();
        assert!(mutex.try_lock().is_none());
    }
}
