//! The ways one stretch of bytes is read: as it stands, with percent escapes undone, with JSON escapes undone, and
//! as base64 or hex with line breaks left out. Each reading is cut into tokens; a token is some input bytes and what
//! they stand for.

/// A reading of the input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Each byte stands for itself.
    Literal,
    /// `%XX` is a byte.
    Percent,
    /// JSON string escapes, and the `\xNN` and `\'` that languages print beside them.
    Json,
    /// Base64 and hex characters: line breaks and the indentation after them are left out, and a character may
    /// itself be escaped (`%2B`, `\/`, `\u003d`).
    Armour,
    /// As [`Reading::Percent`], and `+` is a space.
    Form,
}

/// All readings. [`Reading::Form`] is last: it is dropped where no value has a space.
pub(crate) const READINGS: [Reading; 5] =
    [Reading::Literal, Reading::Percent, Reading::Json, Reading::Armour, Reading::Form];

/// The place of [`Reading::Armour`] in [`READINGS`].
pub(crate) const ARMOUR: usize = 3;

/// Input bytes and what they stand for.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    /// Input bytes read, at least 1.
    pub len: usize,
    /// Bytes meant: one, up to four for a character beyond ASCII, none for a line break in armour.
    bytes: [u8; 4],
    count: usize,
}

impl Token {
    fn one(byte: u8, len: usize) -> Self {
        Self { len, bytes: [byte, 0, 0, 0], count: 1 }
    }

    fn skipped(len: usize) -> Self {
        Self { len, bytes: [0; 4], count: 0 }
    }

    /// What the token stands for.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }
}

/// Whether a byte that follows no line break is read otherwise than as itself.
pub(crate) fn is_special_in(reading: Reading, byte: u8) -> bool {
    match reading {
        Reading::Literal => false,
        Reading::Percent => byte == b'%',
        Reading::Json => byte == b'\\',
        Reading::Armour => matches!(byte, b'%' | b'\\' | b'\n' | b'\r'),
        Reading::Form => matches!(byte, b'%' | b'+'),
    }
}

/// Reads the token that `input` begins with; `None` if more input is needed to tell, which never happens when this
/// input is the `last`. `after_break` tells whether the token before was a line break left out.
pub(crate) fn read(reading: Reading, input: &[u8], last: bool, after_break: bool) -> Option<Token> {
    let first = *input.first()?;
    match (reading, first) {
        (Reading::Percent | Reading::Form, b'%') => percent(input, last),
        (Reading::Form, b'+') => Some(Token::one(b' ', 1)),
        (Reading::Json, b'\\') => json(input, last),
        (Reading::Armour, b'%' | b'\\') => {
            let token = if first == b'%' { percent(input, last)? } else { json(input, last)? };
            Some(armoured(first, token))
        }
        (Reading::Armour, b'\n' | b'\r') => Some(Token::skipped(1)),
        (Reading::Armour, b' ' | b'\t') if after_break => Some(Token::skipped(1)),
        _ => Some(Token::one(first, 1)),
    }
}

/// Of escapes, armour knows those of line breaks and of the characters that encoders escape in base64. A sign that
/// begins no such escape stands for itself, so that hex may follow it; a backslash may also end a line.
fn armoured(first: u8, token: Token) -> Token {
    match token.bytes() {
        [b'\n' | b'\r'] => Token::skipped(token.len),
        [b'+' | b'/' | b'=' | b'-' | b'_'] => token,
        _ if first == b'\\' => Token::skipped(1),
        _ => Token::one(first, 1),
    }
}

fn percent(input: &[u8], last: bool) -> Option<Token> {
    match digits(input, 1, 2) {
        Digits::Value(value) => Some(Token::one(value as u8, 3)),
        Digits::Short if !last => None,
        _ => Some(Token::one(b'%', 1)),
    }
}

fn json(input: &[u8], last: bool) -> Option<Token> {
    let literal = Token::one(b'\\', 1);
    let Some(&kind) = input.get(1) else { return last.then_some(literal) };
    Some(match kind {
        b'n' => Token::one(b'\n', 2),
        b'r' => Token::one(b'\r', 2),
        b't' => Token::one(b'\t', 2),
        b'b' => Token::one(8, 2),
        b'f' => Token::one(12, 2),
        b'"' | b'\\' | b'/' | b'\'' => Token::one(kind, 2),
        b'x' => match digits(input, 2, 2) {
            Digits::Value(value) => Token::one(value as u8, 4),
            Digits::Short if !last => return None,
            _ => literal,
        },
        b'u' => match digits(input, 2, 4) {
            Digits::Value(high @ 0xd800..0xdc00) => match low_surrogate(input) {
                Digits::Value(low) => character(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), 12, literal),
                Digits::Short if !last => return None,
                _ => literal,
            },
            Digits::Value(value) => character(value, 6, literal),
            Digits::Short if !last => return None,
            _ => literal,
        },
        _ => literal,
    })
}

/// The second half of a surrogate pair, after `\uXXXX`.
fn low_surrogate(input: &[u8]) -> Digits {
    match (input.get(6), input.get(7)) {
        (None, _) | (Some(b'\\'), None) => Digits::Short,
        (Some(b'\\'), Some(b'u')) => match digits(input, 8, 4) {
            Digits::Value(low) if !(0xdc00..0xe000).contains(&low) => Digits::Other,
            read => read,
        },
        _ => Digits::Other,
    }
}

fn character(scalar: u32, len: usize, otherwise: Token) -> Token {
    let Some(character) = char::from_u32(scalar) else { return otherwise };
    let mut bytes = [0; 4];
    let count = character.encode_utf8(&mut bytes).len();
    Token { len, bytes, count }
}

enum Digits {
    Value(u32),
    /// The input ends, and what there is are digits.
    Short,
    Other,
}

fn digits(input: &[u8], from: usize, count: usize) -> Digits {
    let mut value = 0;
    for at in from..from + count {
        let Some(&byte) = input.get(at) else { return Digits::Short };
        let Some(digit) = char::from(byte).to_digit(16) else { return Digits::Other };
        value = value * 16 + digit;
    }
    Digits::Value(value)
}
