//! What is logged, kept for looking at it.

use std::io::Write;
use std::sync::{Arc, Mutex};
use theazo_http::{LogFormat, make_subscriber};
use tracing::Subscriber;

/// All that was logged through its subscribers.
#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// A subscriber that writes here what that filter lets through.
    pub fn subscriber(&self, format: LogFormat, filter: &str) -> impl Subscriber + Send + Sync + use<> {
        let log = self.clone();
        make_subscriber(format, filter.parse().unwrap(), move || log.clone())
    }

    /// Everything until now.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// Everything until now, which is forgotten here.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
