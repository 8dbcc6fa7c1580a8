//! Writing entries that belong to no transaction.

use super::{NewLog, next_id, rows_of};
use crate::roles::carried;
use crate::table::Item;
use crate::transaction::Transaction;
use crate::{StoreError, Table, now_ms};
use theazo_tenancy::TenantScope;
use tokio::sync::watch;
use tracing::Instrument;

/// Rows that are under way at once: eight of the table's batches.
const ROWS_AT_ONCE: usize = 200;

/// Writing log entries. No way to read, change or remove one.
#[derive(Clone)]
pub struct LogWriter {
    table: Table,
    queue: LogQueue,
    clock_offset_ms: i64,
}

/// What this process has still to do that nobody waits for: entries to write, and work whose reader may have gone.
#[derive(Clone, Default)]
pub struct LogQueue(watch::Sender<Counts>);

/// How much there is to do.
#[derive(Clone, Copy, Default)]
struct Counts {
    writes: usize,
    works: usize,
}

impl LogQueue {
    /// Resolves when nothing is left to be written or done, what comes meanwhile included. To be awaited before the process
    /// is frozen.
    pub async fn flushed(&self) {
        // The sender is alive: it is ours.
        let _ = self.0.subscribe().wait_for(|counts| counts.writes == 0 && counts.works == 0).await;
    }

    /// The same of entries alone, whatever work goes on.
    pub async fn written(&self) {
        let _ = self.0.subscribe().wait_for(|counts| counts.writes == 0).await;
    }

    /// Has something written that nobody waits for. Must be called on a Tokio runtime.
    pub(crate) fn run(&self, write: impl Future<Output = ()> + Send + 'static) {
        let pending = self.pending(|counts| &mut counts.writes);
        let write = async move {
            let _pending = pending;
            write.await;
        };
        // What goes wrong is told with the request that it belongs to.
        tokio::spawn(carried(write).in_current_span());
    }

    fn pending(&self, count: fn(&mut Counts) -> &mut usize) -> Pending {
        self.0.send_modify(|counts| *count(counts) += 1);
        Pending { queue: self.clone(), count }
    }
}

/// Something that is still to be done, for as long as this lives: until then [`LogQueue::flushed`] does not resolve.
pub struct Pending {
    queue: LogQueue,
    count: fn(&mut Counts) -> &mut usize,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.queue.0.send_modify(|counts| {
            let left = (self.count)(counts);
            *left = left.saturating_sub(1);
        });
    }
}

impl LogWriter {
    /// Over that table, with the process's queue.
    pub fn new(table: Table, queue: LogQueue) -> Self {
        Self { table, queue, clock_offset_ms: 0 }
    }

    /// The same as on a machine whose clock is ahead by so many milliseconds, or behind. For tests.
    #[must_use]
    pub fn with_clock_offset(self, ms: i64) -> Self {
        Self { clock_offset_ms: ms, ..self }
    }

    /// To be kept by work that goes on whether or not anybody reads of it, and that writes an entry when it ends.
    pub fn pending(&self) -> Pending {
        self.queue.pending(|counts| &mut counts.works)
    }

    /// Writes entries, in batches that run side by side. Their order is the order of their ids. To be awaited side by
    /// side with the request's last write, so that it costs no round trip of its own.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a session outside the scope; [`StoreError::Table`] when the table does not answer.
    /// Some of the entries may be written then.
    pub async fn append(&self, scope: &TenantScope, entries: Vec<NewLog>) -> Result<(), StoreError> {
        put(&self.table, self.rows(scope, entries)?).await
    }

    /// The same where the change that the entries tell of has happened already: a failure is told to the operator and
    /// to nobody else.
    pub async fn note(&self, scope: &TenantScope, entries: Vec<NewLog>) {
        if let Err(error) = self.append(scope, entries).await {
            lost(&error);
        }
    }

    /// The same without waiting, where a request has no write to be side by side with. [`LogQueue::flushed`] tells when
    /// it is done. Must be called on a Tokio runtime.
    pub fn later(&self, scope: &TenantScope, entries: Vec<NewLog>) {
        let rows = match self.rows(scope, entries) {
            Ok(rows) => rows,
            Err(error) => return lost(&error),
        };
        if rows.is_empty() {
            return;
        }
        let table = self.table.clone();
        self.queue.run(async move {
            if let Err(error) = put(&table, rows).await {
                lost(&error);
            }
        });
    }

    /// The same for one entry, and with no other permission than to put rows, which whoever changes an agent has.
    pub fn later_as_change(&self, scope: &TenantScope, entry: NewLog) {
        let written = match Transaction::default().log(&self.table, scope, [entry]) {
            Ok(written) => written,
            Err(error) => return lost(&error),
        };
        let table = self.table.clone();
        self.queue.run(async move {
            if let Err(error) = written.commit(&table).await {
                lost(&error);
            }
        });
    }

    fn rows(&self, scope: &TenantScope, entries: Vec<NewLog>) -> Result<Vec<Item>, StoreError> {
        let mut rows = Vec::with_capacity(entries.len() * 2);
        for entry in entries {
            let mut id = next_id(now_ms());
            if self.clock_offset_ms != 0 {
                id = theazo_tenancy::LogId::make_at(id.at_ms().saturating_add(self.clock_offset_ms));
            }
            rows.extend(rows_of(&self.table, scope, &entry.into_entry(id, scope))?);
        }
        Ok(rows)
    }
}

/// An alarm counts these.
fn lost(error: &StoreError) {
    tracing::error!(%error, "log entries are lost");
}

async fn put(table: &Table, rows: Vec<Item>) -> Result<(), StoreError> {
    for some in rows.chunks(ROWS_AT_ONCE) {
        table.put_all(some.iter().cloned()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Span;

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_in_the_span_of_its_request() {
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
        let (sent, received) = tokio::sync::oneshot::channel();
        let queue = LogQueue::default();
        let request = tracing::error_span!("request");
        request.in_scope(|| {
            queue.run(async move {
                let _ = sent.send(Span::current().id());
            });
        });
        queue.flushed().await;
        let written_in = received.await.unwrap();
        assert!(written_in.is_some() && written_in == request.id(), "{written_in:?}");
    }
}
