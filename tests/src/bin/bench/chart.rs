//! The table as a picture: a bar a path, as long as the multiple, and a mark where the peer is.

use std::fmt::Write as _;

/// A path.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    /// × the empty program.
    pub(crate) ratio: f64,
    /// The better of the peer's two.
    pub(crate) peer: Option<f64>,
}

const WIDTH: u32 = 860;
/// Where bars begin, and how long the longest may be.
const LEFT: f64 = 340.0;
const LENGTH: f64 = 440.0;
const STEP: u32 = 24;
const TOP: u32 = 58;

/// An SVG that reads on light and on dark ground.
pub(crate) fn draw(bars: &[Bar], machine: &str) -> String {
    let most = bars
        .iter()
        .flat_map(|bar| [Some(bar.ratio), bar.peer])
        .flatten()
        .fold(1.0, f64::max);
    let scale = LENGTH / most;
    let height = TOP + STEP * u32::try_from(bars.len()).unwrap_or(u32::MAX / STEP - TOP) + 14;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">What a packet costs, IPv4: × a program \
         that does nothing</text>\n\
         <text x=\"16\" y=\"42\" fill=\"#555555\">{machine}; the mark is aws-network-policy-agent, the better of two \
         other machines</text>\n",
        machine = escape(machine)
    );
    for (index, bar) in (0..).zip(bars) {
        let y = TOP + STEP * index;
        let length = bar.ratio * scale;
        let middle = y + 13;
        // Into a string nothing fails to be written.
        let _written = writeln!(
            svg,
            "<text x=\"{at:.0}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"17\" fill=\"#2f6fb5\"/>\n\
             <text x=\"{end:.1}\" y=\"{middle}\">{ratio:.1}</text>",
            at = LEFT - 8.0,
            name = escape(&bar.name),
            end = LEFT + length + 5.0,
            ratio = bar.ratio,
        );
        if let Some(peer) = bar.peer {
            let _written = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{from}\" width=\"3\" height=\"21\" fill=\"#c0392b\"><title>{peer:.1}</title></rect>",
                x = LEFT + peer * scale - 1.5,
                from = y - 2,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_bar_and_the_peer_a_mark() {
        let bars = [
            Bar {
                name: "established".to_owned(),
                ratio: 2.4,
                peer: Some(4.6),
            },
            Bar {
                name: "a < b".to_owned(),
                ratio: 1.4,
                peer: None,
            },
        ];
        let svg = draw(&bars, "a machine");
        assert_eq!(svg.matches("#2f6fb5").count(), 2);
        assert_eq!(svg.matches("#c0392b").count(), 1);
        assert!(svg.contains("a &lt; b"));
    }
}
