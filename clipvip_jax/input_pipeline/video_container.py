"""Opens video files: only formats that hold their pictures themselves, and the stream that a player shows."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from clipvip_jax.input_pipeline import video_checks
from clipvip_jax.input_pipeline.ffmpeg_errors import enable_log
from clipvip_jax.input_pipeline.media_error import MediaError, file_error_reason

if TYPE_CHECKING:  # imported where needed: training reads stored JPEGs and starts without FFmpeg
  from av.container import InputContainer
  from av.video.codeccontext import VideoCodecContext
  from av.video.stream import VideoStream

# FFmpeg also opens playlists and scripts (concat, hls, dash, sdp, image2 patterns), which name other files, and draws
# texts as terminals (tty, ansi): those are refused. So is raw Dirac, whose frames it times 1/1,200,000 s apart. Audio
# formats are listed for the message that there is no video.
_VIDEO_FORMATS = (
  "mov,matroska,webm,avi,asf,asf_o,flv,live_flv,kux,mpeg,mpegts,mpegvideo,ogg,mxf,gxf,nut,nsv,rm,wtv,swf,dv,ivf,dhav,ty,lxf,nuv,pva,vivo,"
  "yuv4mpegpipe,h261,h263,h264,hevc,vvc,evc,av1,obu,apv,m4v,mjpeg,mjpeg_2000,vc1,vc1test,dnxhd,cavsvideo,avs2,"
  "avs3,ipu,amv,smk,bink,flic,roq,gif,apng,webp_anim"
)
_IMAGE_FORMATS = (
  "bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,"
  "pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,"
  "sunrast_pipe,tiff_pipe,webp_pipe,xbm_pipe,xpm_pipe,xwd_pipe"
)
_AUDIO_FORMATS = "aac,ac3,aiff,amr,ape,au,caf,flac,mp3,tta,w64,wav,wv"
_OPTIONS = {
  "format_whitelist": f"{_VIDEO_FORMATS},{_IMAGE_FORMATS},{_AUDIO_FORMATS}",
  "protocol_whitelist": "file",
}

_DOLBY_VISION = ("dvh1", "dvhe", "dav1", "dva1", "dvav")  # tags of streams; most hold HDR10, HLG or SDR besides
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[tuple["InputContainer", "VideoStream"]]:
  """Opens a file; yields its container and the video stream that a player shows. Never opens another file.

  Raises:
    MediaError: the file is missing, empty, or not a video.
  """
  with open_container(path) as container:
    yield container, _shown_stream(path, container)


@contextlib.contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator["InputContainer"]:
  """Opens a file of any of the accepted formats, those of sound alone included. Never opens another file.

  Raises:
    MediaError: the file is missing, empty, or has another format.
  """
  import av

  video_checks.check_readable(path)
  enable_log()
  try:
    # Without the prefix, a colon in a name denotes a protocol.
    with av.logging.Capture():
      container = av.open(f"file:{os.fspath(path)}", container_options=_OPTIONS)
  except (av.error.FFmpegError, OSError) as error:
    if error.errno == errno.EINVAL:
      raise MediaError(
        path, "not a video in a supported format (texts, playlists and scripts are never read as videos), or corrupt"
      ) from None
    raise MediaError(path, f"not a video, or truncated before its index ({file_error_reason(error)})") from None
  with container:
    yield container


def stream_decoder(stream: "VideoStream") -> "VideoCodecContext":
  """Returns the decoder of a stream: libvpx for VP8 and VP9 with transparency, which FFmpeg's own decoders drop."""
  import av

  decoder = stream.codec_context
  has_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
  if has_alpha and decoder.name in _ALPHA_DECODERS:
    decoder = cast("VideoCodecContext", av.CodecContext.create(_ALPHA_DECODERS[decoder.name], "r"))
  decoder.thread_count = 1  # deterministic; parallelism comes from decoding several videos at once
  return decoder


def _shown_stream(path: str | os.PathLike[str], container: "InputContainer") -> "VideoStream":
  """Returns FFmpeg's best stream (marked as default, then most frames seen and bit rate), as players choose.

  If that is a cover or thumbnail beside a film, returns the film: marked as default, then the largest.
  """
  from av.stream import Disposition
  from av.video.reformatter import ColorTrc

  secondary = Disposition.attached_pic | Disposition.timed_thumbnails
  streams = [
    stream for stream in container.streams.video if stream.codec_context and not stream.disposition & secondary
  ]
  if not streams:
    raise MediaError(path, "has no video stream")
  shown = container.streams.best("video")
  if shown not in streams:
    shown = max(streams, key=lambda stream: (stream.disposition & Disposition.default, stream.width * stream.height))
  if shown.codec_context.codec_tag in _DOLBY_VISION and shown.codec_context.color_trc == ColorTrc.UNSPECIFIED:
    raise MediaError(
      path, "Dolby Vision of profile 5, which needs its metadata to be shown; convert it to HDR10 or SDR"
    )
  return shown
