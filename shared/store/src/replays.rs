//! Answers to be given again: an exec that ended in a 5xx is repeated by clients that retry by themselves, and must
//! not run again for it.

use crate::credentials::hex_bytes;
use crate::table::{Item, TTL, from_item, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction};
use crate::{StoreError, Table, now_ms};
use serde::{Deserialize, Serialize};
use theazo_tenancy::{ReadScope, TableKey, TenantScope};

/// How long an answer is given again, milliseconds.
const LIFE_MS: i64 = 60_000;

/// Bytes of an answer in one row. A row holds 400 KB, a limit of DynamoDB, and a created agent's answer may be larger.
const PIECE_BYTES: usize = 300_000;

/// How long a request is known by its idempotency key, milliseconds: 24 hours.
const NOTE_LIFE_MS: i64 = 24 * 60 * 60 * 1000;

/// A request that is to be done once.
#[derive(Clone, Copy)]
pub struct Note {
    /// What it is known by: a digest of the caller's credential and key.
    pub place: [u8; 32],
    /// What it asks for: a keyed digest of route and body.
    pub digest: [u8; 32],
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Noted {
    /// Nothing until now; it is noted.
    New,
    /// It was answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The body as JSON text, empty for none.
        body: String,
    },
    /// It is under way, or was cut off.
    Unanswered,
    /// Something else was asked for in its place.
    Different,
}

#[derive(Serialize, Deserialize)]
struct NoteRow {
    #[serde(with = "hex_bytes")]
    digest: [u8; 32],
    until_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    status: Option<u16>,
    /// The body's first part.
    #[serde(default)]
    body: String,
    /// How many rows hold the rest of it.
    #[serde(skip_serializing_if = "is_zero", default)]
    pieces: usize,
}

/// A further part of an answer that is too large for one row.
#[derive(Serialize, Deserialize)]
struct PieceRow {
    body: String,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Remembering answers: of requests that are done once for a day, of failed execs for a minute.
#[derive(Clone)]
pub struct Replays(Table);

#[derive(Serialize, Deserialize)]
struct ReplayRow {
    answer: String,
    until_ms: i64,
}

impl Replays {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// The answer that a request of this digest was given within the last minute, if it is to be given again.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn recall(&self, scope: &ReadScope, digest: &[u8; 32]) -> Result<Option<String>, StoreError> {
        let row: Option<ReplayRow> = self.0.get(&scope.replay_key(&hex::encode(digest))).await?;
        Ok(row.filter(|row| now_ms() < row.until_ms).map(|row| row.answer))
    }

    /// Has an answer given again for a minute to requests of this digest.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn remember(&self, scope: &TenantScope, digest: &[u8; 32], answer: String) -> Result<(), StoreError> {
        let row = ReplayRow { answer, until_ms: now_ms() + LIFE_MS };
        let mut item = to_item(&scope.replay_key(&hex::encode(digest)), &row)?;
        item.insert(TTL.into(), number(ttl_seconds(row.until_ms)));
        let transaction = Transaction::default().put_item(&self.0, item, Expression::default());
        match transaction.commit(&self.0).await? {
            Committed::Yes | Committed::Refused { .. } => Ok(()),
        }
    }

    /// Notes a request that is about to be done, unless it is known.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn note(&self, scope: &TenantScope, note: &Note) -> Result<Noted, StoreError> {
        let now = now_ms();
        let row =
            NoteRow { digest: note.digest, until_ms: now + NOTE_LIFE_MS, status: None, body: String::new(), pieces: 0 };
        let unknown = Expression::new("attribute_not_exists(pk) OR until_ms <= :now").value(":now", number(now));
        let transaction = Transaction::default().put_item(&self.0, note_item(scope, note, &row)?, unknown);
        let Committed::Refused { row, .. } = transaction.commit(&self.0).await? else { return Ok(Noted::New) };
        let row: NoteRow = from_item(row.ok_or(StoreError::Corrupt("a note that was there and is not"))?)?;
        Ok(match row.status {
            _ if row.digest != note.digest => Noted::Different,
            Some(status) => Noted::Answered { status, body: self.whole(scope, note, row).await? },
            None => Noted::Unanswered,
        })
    }

    /// The answer with its further parts.
    async fn whole(&self, scope: &TenantScope, note: &Note, row: NoteRow) -> Result<String, StoreError> {
        let mut parts = vec![String::new(); row.pieces];
        for item in self.0.get_many((0..row.pieces).map(|index| piece_key(scope, note, index))).await? {
            let sk = item.get("sk").and_then(|sk| sk.as_s().ok()).cloned().unwrap_or_default();
            let index = (0..row.pieces).find(|index| piece_key(scope, note, *index).sk() == sk);
            let part: PieceRow = from_item(item)?;
            if let Some(place) = index.and_then(|index| parts.get_mut(index)) {
                *place = part.body;
            }
        }
        if parts.iter().any(String::is_empty) {
            return Err(StoreError::Corrupt("an answer of which a part is missing"));
        }
        Ok(std::iter::once(row.body).chain(parts).collect())
    }

    /// Keeps the answer of a noted request.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn answer(&self, scope: &TenantScope, note: &Note, status: u16, body: String) -> Result<(), StoreError> {
        let mut parts = pieces_of(&body);
        let first = parts.next().unwrap_or_default().to_owned();
        let rest: Vec<PieceRow> = parts.map(|part| PieceRow { body: part.to_owned() }).collect();
        let until_ms = now_ms() + NOTE_LIFE_MS;
        let row = NoteRow { digest: note.digest, until_ms, status: Some(status), body: first, pieces: rest.len() };
        let mut transaction = Transaction::default();
        for (index, piece) in rest.iter().enumerate() {
            let mut item = to_item(&piece_key(scope, note, index), piece)?;
            item.insert(TTL.into(), number(ttl_seconds(until_ms)));
            transaction = transaction.put_item(&self.0, item, Expression::default());
        }
        let transaction = transaction.put_item(&self.0, note_item(scope, note, &row)?, Expression::default());
        match transaction.commit(&self.0).await? {
            Committed::Yes | Committed::Refused { .. } => Ok(()),
        }
    }

    /// Takes the note of a request back that left nothing behind.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn forget(&self, scope: &TenantScope, note: &Note) -> Result<(), StoreError> {
        self.0.delete(&note_key(scope, note)).await
    }
}

fn note_key(scope: &TenantScope, note: &Note) -> TableKey {
    scope.replay_key(&format!("once#{}", hex::encode(note.place)))
}

fn piece_key(scope: &TenantScope, note: &Note, index: usize) -> TableKey {
    scope.replay_key(&format!("once#{}#{index}", hex::encode(note.place)))
}

/// A text in parts that fit into a row each.
fn pieces_of(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = text.split_at(text.floor_char_boundary(PIECE_BYTES));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn note_item(scope: &TenantScope, note: &Note, row: &NoteRow) -> Result<Item, StoreError> {
    let mut item = to_item(&note_key(scope, note), row)?;
    item.insert(TTL.into(), number(ttl_seconds(row.until_ms)));
    Ok(item)
}
