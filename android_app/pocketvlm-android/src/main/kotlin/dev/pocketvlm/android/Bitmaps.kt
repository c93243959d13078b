package dev.pocketvlm.android

import android.graphics.Bitmap
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.bundle.oneLineOf
import dev.pocketvlm.checkSize
import dev.pocketvlm.images.Rgb

/** Of one band of rows that is read at a time: 256 KiB of colours. */
private const val BAND_PIXELS = 65536

/**
 * The pixels of a bitmap of any [Bitmap.Config], in sRGB, laid over white where they are transparent. They are copied: the
 * bitmap may be recycled or drawn on afterwards, never meanwhile. One of hardware is copied into memory first. A bitmap
 * says nothing of how it is to be turned: what a camera's JPEG says of that is read by [of] from a Uri, and by [encoded].
 *
 * Any thread; some milliseconds a megapixel.
 *
 * @throws ImageUnusable it was recycled, cannot be read, or has more pixels than [Image.MAX_PIXELS_IN_ALL]
 * @throws NoMemory there is no room for three bytes a pixel
 */
public fun Image.Companion.of(bitmap: Bitmap): Image {
    if (bitmap.isRecycled) throw ImageUnusable("the bitmap was recycled: make the image before")
    checkSize(bitmap.width, bitmap.height)
    return Image(withMemoryFor(bitmap.width, bitmap.height) { inMemory(bitmap, ::rgbOf) })
}

/** Colours of hardware bitmaps cannot be asked for. */
private fun <T> inMemory(bitmap: Bitmap, use: (Bitmap) -> T): T {
    if (bitmap.config != Bitmap.Config.HARDWARE) return use(bitmap)
    val copy = bitmap.copy(Bitmap.Config.ARGB_8888, false) ?: throw ImageUnusable("the hardware bitmap cannot be copied")
    try {
        return use(copy)
    } finally {
        copy.recycle()
    }
}

private fun rgbOf(bitmap: Bitmap): Rgb {
    val width = bitmap.width
    val pixels = ByteArray(width * bitmap.height * 3)
    val rows = minOf(maxOf(1, BAND_PIXELS / width), bitmap.height)
    val colors = IntArray(width * rows)
    var out = 0
    for (top in 0 until bitmap.height step rows) {
        val count = minOf(rows, bitmap.height - top)
        try {
            // Straight alpha in sRGB, whatever the bitmap has. Over white, no byte differs from what was premultiplied.
            bitmap.getPixels(colors, 0, width, 0, top, width, count)
        } catch (error: IllegalStateException) {
            throw ImageUnusable("the bitmap cannot be read: ${oneLineOf(error)}")
        }
        out = overWhite(colors, width * count, pixels, out)
    }
    return Rgb(width, bitmap.height, pixels)
}

/** [count] colours as bytes from [start] of [pixels] on; where the next ones go. */
private fun overWhite(colors: IntArray, count: Int, pixels: ByteArray, start: Int): Int {
    var out = start
    for (at in 0 until count) {
        val color = colors[at]
        val alpha = color ushr 24
        for (shift in 16 downTo 0 step 8) {
            // a division by 255, rounded, in integers: as the core's flatten
            val sum = 255 * (255 - alpha) + (color ushr shift and 255) * alpha + 128
            pixels[out++] = (((sum ushr 8) + sum) ushr 8).toByte()
        }
    }
    return out
}

/** What is made of a picture of so many pixels, or the typed error where memory does not suffice. */
internal fun <T> withMemoryFor(width: Int, height: Int, make: () -> T): T = try {
    make()
} catch (error: OutOfMemoryError) {
    throw NoMemory("a picture of $width x $height", width.toLong() * height * 3, freeHeap(), error)
}

/** Bytes. */
internal fun freeHeap(): Long = with(Runtime.getRuntime()) { maxMemory() - totalMemory() + freeMemory() }
