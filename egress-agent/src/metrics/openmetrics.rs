//! The same scrape in the OpenMetrics text format.
//!
//! Samples are written alike in both formats. What differs: metadata names a counter without its
//! `_total`, help escapes quotes, units are told apart, and the end is marked, so that a cut
//! answer is not taken for a whole one. Source: OpenMetrics 1.0, "Text format".

/// Units that names of ours end in.
const UNITS: [&str; 2] = ["bytes", "seconds"];

/// From Prometheus' text format, as [`super::render`] writes it.
pub fn open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut push = |parts: &[&str]| {
            for part in parts {
                out.push_str(part);
            }
            out.push('\n');
        };
        if let Some((name, help)) = metadata(line, "# HELP ") {
            push(&["# HELP ", family(name), " ", &help.replace('"', "\\\"")]);
        } else if let Some((name, kind)) = metadata(line, "# TYPE ") {
            let name = family(name);
            push(&["# TYPE ", name, " ", kind]);
            let unit = UNITS.iter().find(|unit| {
                name.strip_suffix(**unit)
                    .is_some_and(|rest| rest.ends_with('_'))
            });
            if let Some(unit) = unit {
                push(&["# UNIT ", name, " ", unit]);
            }
        } else {
            push(&[line]);
        }
    }
    out.push_str("# EOF\n");
    out
}

fn metadata<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(keyword)?.split_once(' ')
}

/// Only counters end in `_total`; a test of the catalogue holds that.
fn family(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_names_families_and_samples_stay() {
        let text = "\
# HELP egress_dropped_bytes_total Bytes \"dropped\".
# TYPE egress_dropped_bytes_total counter
egress_dropped_bytes_total{reason=\"no-rule\"} 3
# HELP egress_ready Ready.
# TYPE egress_ready gauge
egress_ready 1
";
        assert_eq!(
            open_metrics(text),
            "\
# HELP egress_dropped_bytes Bytes \\\"dropped\\\".
# TYPE egress_dropped_bytes counter
# UNIT egress_dropped_bytes bytes
egress_dropped_bytes_total{reason=\"no-rule\"} 3
# HELP egress_ready Ready.
# TYPE egress_ready gauge
egress_ready 1
# EOF
"
        );
    }
}
