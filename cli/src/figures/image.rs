//! Files with a plot in them.
//!
//! Owns which formats there are and how a picture becomes one of them. Invariant:
//! the same picture gives the same bytes. Must not know: what is drawn.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::font;

/// What was drawn, or why not.
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Something that can be drawn by any backend. Lengths are in its own units, each
/// `scale` pixels.
pub(super) trait Picture {
    /// Width and height.
    fn size(&self) -> (u32, u32);
    /// Draws itself.
    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, scale: u32) -> Drawn
    where
        DB::ErrorType: 'static;
}

/// The formats of plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Lines and text, drawn by the viewer.
    Svg,
    /// Pixels, two for each unit, for viewers that know no SVG.
    Png,
}

/// Pixels of a PNG for each unit: screens of today show them one to one.
const PNG_SCALE: u32 = 2;

impl Format {
    /// The format that a file's name asks for.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "svg" => Some(Self::Svg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }

    /// The bytes of a file with the picture.
    pub(super) fn bytes(self, picture: &impl Picture) -> Result<Vec<u8>, String> {
        font::register()?;
        let drawn = match self {
            Self::Svg => svg(picture),
            Self::Png => png(picture),
        };
        drawn.map_err(|error| format!("drawing failed: {error}"))
    }
}

fn svg(picture: &impl Picture) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, picture.size()).into_drawing_area();
    picture.draw(&root, 1)?;
    drop(root);
    Ok(text.into_bytes())
}

fn png(picture: &impl Picture) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let (width, height) = picture.size();
    let size @ (width, height) = (width * PNG_SCALE, height * PNG_SCALE);
    // Red, green and blue, a byte each.
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
    picture.draw(&root, PNG_SCALE)?;
    drop(root);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of one colour with a word in it.
    struct Word(&'static str);

    impl Picture for Word {
        fn size(&self) -> (u32, u32) {
            (80, 30)
        }

        fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, scale: u32) -> Drawn
        where
            DB::ErrorType: 'static,
        {
            root.fill(&RGBColor(10, 20, 30)).unwrap();
            let style = (font::FAMILY, 15 * scale).into_font().color(&WHITE);
            root.draw(&Text::new(self.0, (5, 5), style)).unwrap();
            Ok(())
        }
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        assert_eq!((reader.info().width, reader.info().height), (160, 60));
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    }

    #[test]
    fn a_png_holds_what_was_drawn_text_too() {
        let bytes = Format::Png.bytes(&Word("")).unwrap();
        let empty = pixels(&bytes);
        assert!(empty.chunks_exact(3).all(|pixel| pixel == [10, 20, 30]));
        let text = pixels(&Format::Png.bytes(&Word("Esker 0.95")).unwrap());
        let inked = text.chunks_exact(3).filter(|pixel| pixel[0] > 200).count();
        assert!(inked > 100, "{inked} pixels of text");
        assert_eq!(bytes, Format::Png.bytes(&Word("")).unwrap());
    }

    #[test]
    fn the_name_of_a_file_says_its_format() {
        let of = |name| Format::of(Path::new(name));
        assert_eq!(of("a/b.svg"), Some(Format::Svg));
        assert_eq!(of("a.b.png"), Some(Format::Png));
        for name in ["svg", "a.jpg", "a", "a.svg.gz", ".png"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
