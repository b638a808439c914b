//! What the features change, and what the types promise.

use parking_lot::{
    Condvar, Mutex, MutexGuard, Once, ReentrantMutex, ReentrantMutexGuard, RwLock, RwLockReadGuard,
    RwLockWriteGuard,
};
use std::panic::{RefUnwindSafe, UnwindSafe};

fn is_shared<T: Send + Sync>() {}
fn is_unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}

#[test]
fn locks_can_be_shared() {
    is_shared::<Mutex<u32>>();
    is_shared::<RwLock<u32>>();
    is_shared::<ReentrantMutex<u32>>();
    is_shared::<Condvar>();
    is_shared::<Once>();
    is_unwind_safe::<Condvar>();
    is_unwind_safe::<Once>();
}

/// `is` is ambiguous, and so does not compile, if the type is `Send`.
#[cfg(not(feature = "send_guard"))]
trait NotSend<Ambiguous> {
    fn is() {}
}

#[cfg(not(feature = "send_guard"))]
impl<T: ?Sized> NotSend<()> for T {}
#[cfg(not(feature = "send_guard"))]
impl<T: ?Sized + Send> NotSend<u8> for T {}

#[cfg(not(feature = "send_guard"))]
#[test]
fn guards_stay_on_their_thread() {
    <MutexGuard<'_, u32> as NotSend<_>>::is();
    <RwLockReadGuard<'_, u32> as NotSend<_>>::is();
    <RwLockWriteGuard<'_, u32> as NotSend<_>>::is();
    <ReentrantMutexGuard<'_, u32> as NotSend<_>>::is();
}

#[cfg(feature = "send_guard")]
#[test]
fn guards_can_be_sent() {
    crate::check(|| {
        is_shared::<RwLockReadGuard<'_, u32>>();
        is_shared::<RwLockWriteGuard<'_, u32>>();
        static MUTEX: Mutex<u32> = Mutex::new(1);
        let mut guard: MutexGuard<'static, u32> = MUTEX.lock();
        crate::spawn(move || *guard += 1).join();
        assert_eq!(*MUTEX.lock(), 2);
    });
    fn is_not_shared<T>() {}
    is_not_shared::<ReentrantMutexGuard<'_, u32>>();
}

#[cfg(feature = "arc_lock")]
#[test]
fn guards_can_own_their_lock() {
    use parking_lot::{
        ArcMutexGuard, ArcReentrantMutexGuard, ArcRwLockReadGuard, ArcRwLockUpgradableReadGuard,
        ArcRwLockWriteGuard, RawMutex, RawRwLock, RawThreadId,
    };
    use std::sync::Arc;

    crate::check(|| {
        let mutex = Arc::new(Mutex::new(1));
        let mut guard: ArcMutexGuard<RawMutex, u32> = mutex.lock_arc();
        *guard += 1;
        assert!(mutex.try_lock_arc().is_none());
        drop(guard);
        assert_eq!(*mutex.lock(), 2);
        let lock = Arc::new(RwLock::new(1));
        let read: ArcRwLockReadGuard<RawRwLock, u32> = lock.read_arc();
        let upgradable: ArcRwLockUpgradableReadGuard<RawRwLock, u32> = lock.upgradable_read_arc();
        drop(read);
        let mut write: ArcRwLockWriteGuard<RawRwLock, u32> =
            ArcRwLockUpgradableReadGuard::upgrade(upgradable);
        *write += 1;
        drop(write);
        assert_eq!(*lock.read(), 2);
        let mutex = Arc::new(ReentrantMutex::new(1));
        let guard: ArcReentrantMutexGuard<RawMutex, RawThreadId, u32> = mutex.lock_arc();
        assert_eq!(*guard + *mutex.lock(), 2);
    });
}

#[cfg(feature = "serde")]
#[test]
fn data_can_be_serialized() {
    fn is_serialized<T: serde::Serialize + serde::de::DeserializeOwned>() {}
    is_serialized::<Mutex<u32>>();
    is_serialized::<RwLock<u32>>();
    is_serialized::<ReentrantMutex<u32>>();
}
