"""The Content-Type of an object, guessed from its name: the same on every machine and with every Python.

A table of our own, made once from the IANA registry of media types, the WHATWG's MIME Sniffing standard, and,
where these leave a choice, what aws-cli, rclone, mc and nginx send (`text/javascript`: RFC 9239). Neither the
standard library's table, which differs from one version to the next, nor /etc/mime.types is asked. Only the
outermost suffix counts: `a.html.gz` is `application/gzip`. Content-Encoding is never guessed: whoever
downloads a `.gz` wants the file that was sent.

A change of the table raises VERSION and repairs nothing by itself: what was sent keeps what it has.
"""

from __future__ import annotations

VERSION = 1
DEFAULT = "application/octet-stream"

_TABLE = """
application/atom+xml atom
application/dash+xml mpd
application/dicom dcm
application/epub+zip epub
application/fits fits
application/geo+json geojson
application/geopackage+sqlite3 gpkg
application/gpx+xml gpx
application/gzip gz tgz svgz emz
application/java-archive jar war ear
application/json json map
application/jsonl jsonl ndjson
application/ld+json jsonld
application/mac-binhex40 hqx
application/manifest+json webmanifest
application/mathematica nb
application/mbox mbox
application/mp21 m21
application/msword doc dot
application/mxf mxf
application/ogg ogx
application/pdf pdf
application/pgp-encrypted pgp
application/pgp-keys asc
application/pgp-signature sig
application/pkcs10 p10
application/pkcs7-mime p7m p7c
application/pkcs7-signature p7s
application/pkcs8 p8
application/pkix-cert cer
application/pkix-crl crl
application/postscript ai eps ps
application/rdf+xml rdf owl
application/relax-ng-compact-syntax rnc
application/rss+xml rss
application/rtf rtf
application/schema+json jsonschema
application/smil+xml smil
application/sparql-query rq
application/sql sql
application/timestamped-data tsd
application/toml toml
application/vnd.adobe.flash.movie swf
application/vnd.amazon.ebook azw
application/vnd.android.package-archive apk
application/vnd.apache.arrow.file arrow feather
application/vnd.apache.arrow.stream arrows
application/vnd.apache.parquet parquet
application/vnd.apple.installer+xml mpkg
application/vnd.apple.keynote key keynote
application/vnd.apple.mpegurl m3u8
application/vnd.apple.numbers numbers
application/vnd.apple.pages pages
application/vnd.debian.binary-package deb udeb
application/vnd.garmin.tcx+xml tcx
application/vnd.google-earth.kml+xml kml
application/vnd.google-earth.kmz kmz
application/vnd.mapbox-vector-tile mvt
application/vnd.microsoft.portable-executable exe dll
application/vnd.mozilla.xul+xml xul
application/vnd.ms-cab-compressed cab
application/vnd.ms-excel xls xlt xla
application/vnd.ms-excel.addin.macroenabled.12 xlam
application/vnd.ms-excel.sheet.binary.macroenabled.12 xlsb
application/vnd.ms-excel.sheet.macroenabled.12 xlsm
application/vnd.ms-excel.template.macroenabled.12 xltm
application/vnd.ms-fontobject eot
application/vnd.ms-htmlhelp chm
application/vnd.ms-outlook msg
application/vnd.ms-powerpoint ppt pps pot
application/vnd.ms-powerpoint.presentation.macroenabled.12 pptm
application/vnd.ms-powerpoint.slideshow.macroenabled.12 ppsm
application/vnd.ms-project mpp
application/vnd.ms-word.document.macroenabled.12 docm
application/vnd.ms-word.template.macroenabled.12 dotm
application/vnd.ms-xpsdocument xps
application/vnd.oasis.opendocument.database odb
application/vnd.oasis.opendocument.formula odf
application/vnd.oasis.opendocument.graphics odg
application/vnd.oasis.opendocument.graphics-template otg
application/vnd.oasis.opendocument.image odi
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.presentation-template otp
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.spreadsheet-template ots
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.text-master odm
application/vnd.oasis.opendocument.text-template ott
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow ppsx
application/vnd.openxmlformats-officedocument.presentationml.template potx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template xltx
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template dotx
application/vnd.rar rar
application/vnd.sqlite3 sqlite sqlite3 db3
application/vnd.tcpdump.pcap pcap cap
application/vnd.visio vsd vss vst
application/vnd.ms-visio.drawing vsdx
application/warc warc
application/wasm wasm
application/x-7z-compressed 7z
application/x-apple-diskimage dmg
application/x-bittorrent torrent
application/x-blender blend
application/x-bzip2 bz2 tbz2 tbz
application/x-cdf cda
application/x-chrome-extension crx
application/x-compress z
application/x-cpio cpio
application/x-csh csh
application/x-dvi dvi
application/x-hdf hdf hdf4
application/x-hdf5 h5 hdf5
application/x-httpd-php php
application/x-ipynb+json ipynb
application/x-iso9660-image iso
application/x-java-jnlp-file jnlp
application/x-latex latex
application/x-lha lha lzh
application/x-lz4 lz4
application/x-lzip lz
application/x-lzma lzma tlz
application/x-mobipocket-ebook mobi prc
application/x-ms-shortcut lnk
application/x-msaccess mdb accdb
application/x-msi msi
application/x-netcdf nc
application/x-ns-proxy-autoconfig pac
application/x-perl pl pm
application/x-pkcs12 p12 pfx
application/x-python-code pyc pyo
application/x-qemu-disk qcow2
application/x-redhat-package-manager rpm
application/x-sh sh
application/x-shar shar
application/x-snappy sz
application/x-spss-sav sav
application/x-stuffit sit
application/x-subrip srt
application/x-tar tar
application/x-tcl tcl
application/x-tex tex
application/x-texinfo texi texinfo
application/x-troff-man man
application/x-virtualbox-vdi vdi
application/x-virtualbox-vmdk vmdk
application/x-x509-ca-cert crt der pem
application/x-xfig fig
application/x-xpinstall xpi
application/x-xz xz txz
application/xhtml+xml xhtml xht
application/xml xsd xsl rng
application/xml-dtd dtd
application/xslt+xml xslt
application/xspf+xml xspf
application/yaml yaml yml
application/zip zip
application/zstd zst tzst
audio/aac aac
audio/ac3 ac3
audio/aiff aif aiff aifc
audio/amr amr
audio/basic au snd
audio/flac flac
audio/matroska mka
audio/midi mid midi kar
audio/mp4 m4a m4b
audio/mpeg mp3 mp2 mpga
audio/ogg oga ogg opus spx
audio/wav wav
audio/webm weba
audio/x-ape ape
audio/x-caf caf
audio/x-ms-wma wma
audio/x-mpegurl m3u
audio/x-pn-realaudio ra ram
audio/x-scpls pls
chemical/x-pdb pdb
chemical/x-xyz xyz
font/collection ttc
font/otf otf
font/ttf ttf
font/woff woff
font/woff2 woff2
image/apng apng
image/avif avif avifs
image/bmp bmp dib
image/cgm cgm
image/dpx dpx
image/emf emf
image/gif gif
image/heic heic
image/heif heif hif
image/ief ief
image/jp2 jp2 jpg2
image/jpeg jpg jpeg jpe jfif pjpeg
image/jpx jpx jpf
image/jxl jxl
image/ktx ktx
image/ktx2 ktx2
image/png png
image/svg+xml svg
image/tiff tif tiff
image/vnd.adobe.photoshop psd psb
image/vnd.djvu djvu djv
image/vnd.dwg dwg
image/vnd.dxf dxf
image/vnd.radiance hdr
image/vnd.microsoft.icon ico cur
image/vnd.wap.wbmp wbmp
image/webp webp
image/wmf wmf
image/x-adobe-dng dng
image/x-canon-cr2 cr2
image/x-canon-cr3 cr3
image/x-exr exr
image/x-fuji-raf raf
image/x-nikon-nef nef
image/x-olympus-orf orf
image/x-panasonic-rw2 rw2
image/x-pcx pcx
image/x-portable-anymap pnm
image/x-portable-bitmap pbm
image/x-portable-graymap pgm
image/x-portable-pixmap ppm
image/x-sony-arw arw
image/x-tga tga
image/x-xbitmap xbm
image/x-xcf xcf
image/x-xpixmap xpm
message/rfc822 eml mht mhtml
model/3mf 3mf
model/gltf+json gltf
model/gltf-binary glb
model/iges igs iges
model/mtl mtl
model/obj obj
model/step stp step
model/stl stl
model/vnd.collada+xml dae
model/vnd.usdz+zip usdz
model/vrml wrl
text/cache-manifest appcache
text/calendar ics ifb
text/css css
text/csv csv
text/html html htm shtml
text/javascript js mjs cjs
text/markdown md markdown mdown
text/n3 n3
text/plain txt text log conf cfg def list ini properties nfo
text/prs.lines.tag dsc
text/richtext rtx
text/tab-separated-values tsv tab
text/troff t tr roff
text/turtle ttl
text/vcard vcf vcard
text/vtt vtt
text/xml xml
text/x-asm s asm
text/x-bibtex bib
text/x-c c cc cxx cpp h hh hpp
text/x-component htc
text/x-csharp cs
text/x-diff diff patch
text/x-fortran f f77 f90 for
text/x-go go
text/x-haskell hs
text/x-java-source java
text/x-kotlin kt kts
text/x-less less
text/x-lua lua
text/x-nix nix
text/x-pascal p pas
text/x-po po
text/x-python py
text/x-r r
text/x-rst rst
text/x-ruby rb
text/x-rust rs
text/x-sass sass
text/x-scala scala
text/x-scss scss
text/x-setext etx
text/x-swift swift
text/x-typescript tsx mts cts
text/x-uuencode uu
text/x-vue vue
video/3gpp 3gp 3gpp
video/3gpp2 3g2
video/h264 h264
video/h265 h265 hevc
video/matroska mkv
video/mp2t ts m2ts
video/mp4 mp4 m4v mp4v
video/mpeg mpeg mpg mpe m1v m2v
video/ogg ogv
video/quicktime mov qt
video/webm webm
video/x-dv dv
video/x-f4v f4v
video/x-flv flv
video/x-m4s m4s
video/x-ms-asf asf asx
video/x-ms-wmv wmv
video/x-msvideo avi
video/x-sgi-movie movie
"""


def rows() -> list[tuple[str, str]]:
    """(suffix without its dot, type), as the table has them."""
    return [(suffix, name) for name, *more in map(str.split, _TABLE.split("\n")[1:-1]) for suffix in more]


_TYPES = dict(rows())


def content_type(key: str) -> str:
    """The type of the object under this key. A name that only begins with a dot has no suffix."""
    name, _, suffix = key.rpartition(".")
    return DEFAULT if not name or name[-1] == "/" else _TYPES.get(suffix.lower(), DEFAULT)
