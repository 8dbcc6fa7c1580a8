//! Lists of the table's, read to their end.

use theazo_store::{Page, PageRequest, StoreError};

/// Rows read at a time.
const PAGE: usize = 100;

/// All rows of a list, page after page.
///
/// # Errors
/// As those of reading a page.
pub(crate) async fn all<T>(
    read: impl AsyncFn(&PageRequest) -> Result<Page<T>, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut request = PageRequest { limit: PAGE, after: None };
    let mut rows = Vec::new();
    loop {
        let page = read(&request).await?;
        rows.extend(page.rows);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(rows),
        }
    }
}
