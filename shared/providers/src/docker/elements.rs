//! The elements of an array in a JSON text that comes piece by piece, one at a time: a list is never in memory as a whole.

/// The longest element that is taken, bytes. What an engine says of a container in a list is some kilobytes.
const LONGEST: usize = 64 * 1024;

/// Why there are no more elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// One is longer than any that is expected.
    TooLong,
    /// This is no list.
    NoList,
}

/// Takes the elements of the first array out of a text. Each is for its reader to understand: of the text only strings and
/// brackets are looked at.
#[derive(Default)]
pub(super) struct Elements {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// How deep the array is, once it has begun.
    array: Option<usize>,
    is_over: bool,
    /// Bytes before the array.
    before: usize,
    element: Vec<u8>,
}

impl Elements {
    /// Goes on with the text; each element that ends in the piece is handed on.
    pub(super) fn feed<E: From<Odd>>(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for byte in piece {
            if self.is_over {
                break;
            }
            self.next(*byte, &mut found)?;
        }
        Ok(())
    }

    fn next<E: From<Odd>>(&mut self, byte: u8, found: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return Ok(self.keep(byte)?);
        }
        match byte {
            b'[' if self.array.is_none() => {
                self.array = Some(self.depth);
                self.depth += 1;
                return Ok(());
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(Odd::NoList)?;
                if self.array == Some(self.depth) {
                    self.is_over = true;
                    return self.end(found);
                }
            }
            b',' if self.array.is_some_and(|array| self.depth == array + 1) => return self.end(found),
            b'"' => self.in_string = true,
            _ => {}
        }
        Ok(self.keep(byte)?)
    }

    fn keep(&mut self, byte: u8) -> Result<(), Odd> {
        if self.is_over {
            return Ok(());
        }
        if self.array.is_none() {
            self.before += 1;
            return if self.before > LONGEST { Err(Odd::NoList) } else { Ok(()) };
        }
        if self.element.len() == LONGEST {
            return Err(Odd::TooLong);
        }
        self.element.push(byte);
        Ok(())
    }

    fn end<E: From<Odd>>(&mut self, found: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let element = self.element.trim_ascii();
        let outcome = if element.is_empty() { Ok(()) } else { found(element) };
        self.element.clear();
        outcome
    }

    /// The text is over. One without an array, like `null`, has no elements.
    pub(super) fn finish(self) -> Result<(), Odd> {
        let is_whole = self.array.is_none() || self.is_over;
        if is_whole { Ok(()) } else { Err(Odd::NoList) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn elements(text: &[u8], piece: usize) -> Result<Vec<Value>, Odd> {
        let (mut elements, mut found) = (Elements::default(), Vec::new());
        for piece in text.chunks(piece) {
            elements.feed(piece, |element| {
                found.push(serde_json::from_slice(element).unwrap());
                Ok::<_, Odd>(())
            })?;
        }
        elements.finish().map(|()| found)
    }

    #[test]
    fn elements_are_those_of_the_array_wherever_the_text_is_cut() {
        let rows = [
            json!({ "a": "],[{}\"\\", "b": [1, [2], { "c": null }] }),
            json!([[], [[]], "x,y"]),
            json!("\\\"],"),
            json!(null),
            json!(-1.5e3),
            json!({}),
        ];
        for text in [
            serde_json::to_vec(&rows).unwrap(),
            serde_json::to_vec_pretty(&rows).unwrap(),
            format!(" {{ \"W\\\"[\": 1, \"Volumes\" : {} , \"Warnings\": [\"no row\"] }} ", json!(rows)).into_bytes(),
        ] {
            for piece in [1, 2, 3, 7, text.len()] {
                assert_eq!(elements(&text, piece).unwrap(), rows, "{}", String::from_utf8_lossy(&text));
            }
        }
    }

    #[test]
    fn a_text_without_an_array_has_none_and_one_that_is_cut_off_or_turned_round_is_refused() {
        for none in ["", "null", "{}", "[]", " [ ] ", "{\"Volumes\":null}", "{\"Volumes\":[]}"] {
            assert_eq!(elements(none.as_bytes(), 2), Ok(Vec::new()), "{none}");
        }
        for odd in ["[", "[1,", "[{}", "{\"a\":[1", "]", "}{", "[\"a"] {
            assert_eq!(elements(odd.as_bytes(), 2).map(|_| ()), Err(Odd::NoList), "{odd}");
        }
        let late = |bytes: usize| format!("{}[1]", " ".repeat(bytes)).into_bytes();
        assert_eq!(elements(&late(LONGEST), 1000).map(|found| found.len()), Ok(1));
        assert_eq!(elements(&late(LONGEST + 1), 1000).map(|_| ()), Err(Odd::NoList));
        let long = |bytes: usize| format!("[\"{}\"]", "1".repeat(bytes - 2)).into_bytes();
        assert_eq!(elements(&long(LONGEST), 1000).map(|found| found.len()), Ok(1));
        assert_eq!(elements(&long(LONGEST + 1), 1000).map(|_| ()), Err(Odd::TooLong));
    }
}
