package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.images.MAX_PIXELS
import dev.pocketvlm.images.MAX_SIDE
import dev.pocketvlm.images.Rgb
import dev.pocketvlm.images.Size
import dev.pocketvlm.images.flatten
import dev.pocketvlm.runtime.Picture
import java.nio.ByteBuffer

/**
 * A picture of [width] x [height] pixels. Pixels are copied, so that what they came from can be freed or changed.
 *
 * The one that a conversation's messages have is prepared for its model: it holds tiles instead of pixels and can be given
 * to that model again, not to another one.
 */
public class Image private constructor(
    public val width: Int,
    public val height: Int,
    internal val pixels: Rgb?,
    internal val picture: Picture?,
) {
    internal constructor(pixels: Rgb) : this(pixels.width, pixels.height, pixels, null)

    internal constructor(picture: Picture) : this(picture.size.width, picture.size.height, null, picture)

    internal val size: Size get() = Size(width, height)

    public companion object {
        /** The largest picture: pixels a side. */
        public const val MAX_SIDE_PIXELS: Int = MAX_SIDE

        /** The largest picture: pixels in all. */
        public const val MAX_PIXELS_IN_ALL: Long = MAX_PIXELS

        /**
         * Red, green, blue: three bytes a pixel, row by row.
         *
         * @throws ImageUnusable the size is out of bounds, or [bytes] are not so many
         */
        public fun rgb(bytes: ByteArray, width: Int, height: Int): Image {
            checkSize(width, height)
            if (bytes.size != width * height * 3) {
                throw ImageUnusable("an image of $width x $height has ${width * height * 3} bytes of RGB, not ${bytes.size}")
            }
            return Image(Rgb(width, height, bytes.copyOf()))
        }

        /**
         * Red, green, blue and straight (not premultiplied) alpha, which is laid over white: four bytes a pixel, rows
         * [stride] bytes apart, from the buffer's position on, which stays.
         *
         * @throws ImageUnusable the size is out of bounds, or the buffer is too short
         */
        public fun rgba(buffer: ByteBuffer, width: Int, height: Int, stride: Int = 4 * width): Image {
            checkSize(width, height)
            val last = stride.toLong() * (height - 1) + 4 * width
            if (stride < 4 * width || buffer.remaining() < last) {
                throw ImageUnusable("an image of $width x $height needs $last bytes at a stride of $stride")
            }
            val rows = buffer.duplicate()
            val packed = ByteArray(width * height * 4)
            for (row in 0 until height) {
                rows.position(buffer.position() + row * stride)
                rows.get(packed, row * width * 4, width * 4)
            }
            return Image(flatten(packed, width, height))
        }
    }
}

/** @throws ImageUnusable no image may have this size, in pixels */
internal fun checkSize(width: Int, height: Int) {
    if (width !in 1..MAX_SIDE || height !in 1..MAX_SIDE || width.toLong() * height > MAX_PIXELS) {
        throw ImageUnusable("an image has from 1 to $MAX_SIDE pixels a side and $MAX_PIXELS in all, not $width x $height")
    }
}
