//! What the agent's `/metrics` says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// One scrape, parsed from the Prometheus text format.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape.
    pub fn parse(text: &str) -> Result<Self> {
        let mut series = Vec::new();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            series.push(parse_line(line).with_context(|| format!("metrics line {line:?}"))?);
        }
        Ok(Self { series })
    }

    /// Sum over the series of `name` that carry all of `labels`; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|series| series.value).sum()
    }

    /// Whether there is a series of `name` that carries all of `labels`.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Names of the labels that any series of `name` carries.
    pub fn label_names(&self, name: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .matching(name, &[])
            .flat_map(|series| series.labels.keys().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Every series as `name{labels} value`, for people.
    pub fn lines(&self, prefix: &str) -> Vec<String> {
        self.series
            .iter()
            .filter(|series| series.name.starts_with(prefix))
            .map(|series| {
                let labels: Vec<String> = series
                    .labels
                    .iter()
                    .map(|(name, value)| format!("{name}=\"{value}\""))
                    .collect();
                format!("{}{{{}}} {}", series.name, labels.join(","), series.value)
            })
            .collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels
                    .iter()
                    .all(|(key, value)| series.labels.get(*key).is_some_and(|have| have == value))
        })
    }
}

fn parse_line(line: &str) -> Result<Series> {
    let (head, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (
            name,
            parse_labels(rest.strip_suffix('}').context("no closing brace")?)?,
        ),
        None => (head, BTreeMap::new()),
    };
    Ok(Series {
        name: name.to_owned(),
        labels,
        value: value.parse().context("value is not a number")?,
    })
}

fn parse_labels(mut text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").context("label without a value")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => bail!("label value ends in a backslash"),
                },
                Some((_, other)) => value.push(other),
                None => bail!("label value without an end"),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest.get(end + 1..).unwrap_or_default();
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

    use super::*;

    const TEXT: &str =
        "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"q\\\"z, {\"} 3\na{x=\"2\"} 4\nb 1.5\n";

    #[test]
    fn sums_what_matches_and_nothing_else() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(metrics.sum("a", &[]), 7.0);
        assert_eq!(metrics.sum("a", &[("y", "q\"z, {")]), 3.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.sum("c", &[]), 0.0);
        assert_eq!(metrics.label_names("a"), ["x", "y"]);
    }
}
