//! Paged lists: `Limit`, `Marker`, `NextMarker`, `Truncated`.

use crate::check;
use crate::error::{EmulatorError, code};

/// One page.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The marker that continues the list; `None` on its last page.
    pub(crate) next_marker: Option<String>,
}

/// The page after `marker`. Each item comes with its own marker; `limit` is 1 to 1000.
///
/// # Errors
/// `InvalidMarkerException` when no item has the marker.
pub(crate) fn page<T>(
    items: impl Iterator<Item = (String, T)>,
    limit: Option<i64>,
    default_limit: u32,
    marker: Option<&str>,
) -> Result<Page<T>, EmulatorError> {
    let limit = limit.map_or(Ok(default_limit), |limit| check::number(limit, "limit", 1..=1000))?;
    let limit = usize::try_from(limit).map_err(|_| EmulatorError::Internal("a limit beyond the address space"))?;
    let mut items = items.peekable();
    if let Some(marker) = marker {
        let found = items.by_ref().any(|(own, _)| own == marker);
        if !found {
            return Err(EmulatorError::refused(code::INVALID_MARKER, "Invalid marker."));
        }
    }
    let (mut markers, items_of_page): (Vec<_>, Vec<_>) = items.by_ref().take(limit).unzip();
    let more = items.peek().is_some();
    Ok(Page { items: items_of_page, next_marker: markers.pop().filter(|_| more) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn following_the_markers_yields_every_item_once() {
        for limit in 1..=6 {
            let (mut seen, mut marker, mut pages) = (Vec::new(), None::<String>, 0);
            loop {
                let items = (0..5).map(|n| (format!("m{n}"), n));
                let page = page(items, Some(limit), 100, marker.as_deref()).unwrap();
                seen.extend(page.items);
                marker = page.next_marker;
                pages += 1;
                if marker.is_none() || pages > 5 {
                    break;
                }
            }
            assert_eq!(seen, [0, 1, 2, 3, 4], "limit {limit}");
        }
        assert!(page(std::iter::once(("a".to_owned(), ())), None, 1, Some("b")).is_err());
        assert!(page(std::iter::empty::<(String, ())>(), Some(0), 1, None).is_err());
    }
}
