//! Draws quantiles as an SVG: a panel for each scenario, a row for each strategy, latency on a logarithmic axis.

use std::fmt::{Result, Write};

/// Results of one scenario.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// p50, p99 and p99.9 of one strategy in milliseconds.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) quantiles: [f32; 3],
}

const COLUMNS: usize = 4;
const LABELS: f32 = 120.0;
const WIDTH: f32 = 230.0;
const HEIGHT: f32 = 190.0;
const ROW: f32 = 22.0;
/// Decades of the axis: 10 ms to 100 s.
const FIRST: f32 = 10.0;
const TICKS: [(f32, &str); 5] = [(1e1, "10 ms"), (1e2, "100 ms"), (1e3, "1 s"), (1e4, "10 s"), (1e5, "100 s")];
const QUANTILES: [(&str, &str); 3] = [("p50", "#2a9d8f"), ("p99", "#e76f51"), ("p99.9", "#7b2d8b")];

pub(crate) fn draw(panels: &[Panel]) -> std::result::Result<String, std::fmt::Error> {
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 440" font-family="sans-serif" font-size="11">"#
    )?;
    svg.push_str("<title>Latency by strategy beside one slow endpoint</title>\n");
    svg.push_str("<rect width=\"1060\" height=\"440\" fill=\"#fff\"/>\n");
    let mut x = LABELS;
    for (name, colour) in QUANTILES {
        writeln!(svg, r#"<circle cx="{x}" cy="14" r="4" fill="{colour}"/><text x="{}" y="18">{name}</text>"#, x + 8.0)?;
        x += 60.0;
    }
    let (mut left, mut top) = (LABELS, 30.0);
    for (index, panel) in panels.iter().enumerate() {
        if index > 0 && index % COLUMNS == 0 {
            (left, top) = (LABELS, top + HEIGHT + 10.0);
        }
        draw_panel(&mut svg, panel, left, top, left <= LABELS)?;
        left += WIDTH;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn draw_panel(svg: &mut String, panel: &Panel, left: f32, top: f32, is_first: bool) -> Result {
    let x = |millis: f32| left + 12.0 + (millis.max(FIRST) / FIRST).log10() * (WIDTH - 40.0) / 4.0;
    writeln!(svg, r#"<text x="{}" y="{}" font-weight="bold">{}</text>"#, x(FIRST), top + 14.0, panel.title)?;
    let bottom = top + HEIGHT - 28.0;
    for (millis, label) in TICKS {
        let at = x(millis);
        writeln!(svg, r##"<path d="M{at:.1} {} V{bottom}" stroke="#ddd"/>"##, top + 22.0)?;
        writeln!(
            svg,
            r##"<text x="{at:.1}" y="{}" text-anchor="middle" font-size="9" fill="#555">{label}</text>"##,
            bottom + 12.0
        )?;
    }
    let mut y = top + 34.0;
    for row in &panel.rows {
        if is_first {
            writeln!(svg, r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#, left - 4.0, y + 4.0, row.name)?;
        }
        let [p50, _, p999] = row.quantiles.map(x);
        writeln!(svg, r##"<path d="M{p50:.1} {y} H{p999:.1}" stroke="#999" stroke-width="2"/>"##)?;
        for ((_, colour), millis) in QUANTILES.iter().zip(row.quantiles) {
            writeln!(svg, r#"<circle cx="{:.1}" cy="{y}" r="4" fill="{colour}"/>"#, x(millis))?;
        }
        y += ROW;
    }
    Ok(())
}
