//! Path patterns, and the parameters a raw path gives them.

use percent_encoding::percent_decode_str;

/// A route's path: static segments, `{name}` for one segment, `{name*}` at the end for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub &'static str);

/// What a path's parameters hold, decoded once. It has no `Debug`: one of them may be a credential.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    #[cfg(test)]
    pub(crate) fn of(name: &'static str, value: &str) -> Self {
        Self(vec![(name, value.to_owned())])
    }

    /// A parameter's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// How well a pattern fits a path: one entry a segment, static before parameter before rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fit(Vec<u8>);

impl Pattern {
    /// Whether one segment is the parameter of that name.
    pub(crate) fn has_parameter(self, name: &str) -> bool {
        let parameter = |segment: &str| segment.strip_prefix('{')?.strip_suffix('}').map(|found| found == name);
        self.0.split('/').any(|segment| parameter(segment) == Some(true))
    }

    /// The parameters, if the raw (still percent-encoded) path fits, and how well it does.
    pub(crate) fn fit(self, raw_path: &str) -> Option<(Fit, Params)> {
        let mut params = Params::default();
        let mut fit = Vec::new();
        let mut path = raw_path.strip_prefix('/')?.split('/');
        let mut pattern = self.0.strip_prefix('/')?.split('/');
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => return Some((Fit(fit), params)),
                (Some(wanted), Some(given)) => {
                    if let Some(name) = wanted.strip_prefix('{').and_then(|name| name.strip_suffix("*}")) {
                        let rest: Vec<&str> = std::iter::once(given).chain(path).collect();
                        params.0.push((name, decode(&rest.join("/"))?));
                        fit.push(2);
                        return Some((Fit(fit), params));
                    }
                    if let Some(name) = wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                        if given.is_empty() {
                            return None;
                        }
                        params.0.push((name, decode(given)?));
                        fit.push(1);
                    } else if decode(given)? == wanted {
                        fit.push(0);
                    } else {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }

    /// The best of several patterns for a path: static segments win over parameters, from the left.
    pub fn best<'a, T>(
        candidates: impl IntoIterator<Item = &'a T>,
        pattern_of: impl Fn(&T) -> Pattern,
        raw_path: &str,
    ) -> Option<(&'a T, Params)> {
        let fitting = candidates.into_iter().filter_map(|candidate| {
            let (fit, params) = pattern_of(candidate).fit(raw_path)?;
            Some((fit, candidate, params))
        });
        let (_, candidate, params) = fitting.min_by(|(a, _, _), (b, _, _)| a.cmp(b))?;
        Some((candidate, params))
    }
}

fn decode(segment: &str) -> Option<String> {
    percent_decode_str(segment).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: [Pattern; 6] = [
        Pattern("/v1/sessions"),
        Pattern("/v1/sessions/{id}"),
        Pattern("/v1/sessions/by-user/{userId}"),
        Pattern("/v1/sessions/{id}/secrets"),
        Pattern("/v1/sessions/{id}/secrets/{name}"),
        Pattern("/v1/agents/{id}/files/{path*}"),
    ];

    fn find(path: &str) -> Option<(&'static str, Params)> {
        Pattern::best(&ROUTES, |pattern| *pattern, path).map(|(pattern, params)| (pattern.0, params))
    }

    #[test]
    fn static_segments_win_over_parameters() {
        let (pattern, params) = find("/v1/sessions/by-user/secrets").unwrap();
        assert_eq!(pattern, "/v1/sessions/by-user/{userId}");
        assert_eq!(params.get("userId"), Some("secrets"));
        assert_eq!(find("/v1/sessions/x/secrets").unwrap().0, "/v1/sessions/{id}/secrets");
    }

    #[test]
    fn a_segment_is_decoded_once_and_stays_one_segment() {
        for (raw, decoded) in
            [("a%2Fb", "a/b"), ("%C3%BC", "\u{fc}"), ("..", ".."), ("%2e%2e", ".."), ("%252F", "%2F"), ("a+b", "a+b")]
        {
            let (pattern, params) = find(&format!("/v1/sessions/by-user/{raw}")).unwrap();
            assert_eq!(pattern, "/v1/sessions/by-user/{userId}");
            assert_eq!(params.get("userId"), Some(decoded));
        }
    }

    #[test]
    fn a_rest_parameter_takes_every_further_segment() {
        let (_, params) = find("/v1/agents/a/files/data/b%20c//d").unwrap();
        assert_eq!(params.get("path"), Some("data/b c//d"));
    }

    #[test]
    fn other_paths_fit_nothing() {
        for path in ["", "/", "/v1/sessions/", "/v1/sessions/x/y", "/v1/sessions/%ff", "/v1//sessions", "v1/sessions"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
