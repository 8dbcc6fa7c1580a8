//! What a test logs.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what is logged apart by thread, that is, by test: one that runs on a single thread sees its own lines only.
struct OwnThread;

impl Write for OwnThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|lines| lines.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged from `warn` on.
pub fn capture() {
    static ONCE: Once = Once::new();
    // For the whole process: with a subscriber of one thread, another thread that comes first to a place in the code
    // decides for all that nobody listens there.
    ONCE.call_once(|| {
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| OwnThread).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        tracing::callsite::rebuild_interest_cache();
    });
}

/// What this thread has logged since it was last asked.
pub fn take() -> String {
    String::from_utf8(LOGGED.take()).unwrap()
}
