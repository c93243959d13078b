package dev.pocketvlm.android

import android.graphics.Bitmap
import android.graphics.Color
import android.graphics.ColorSpace
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.images.flatten
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import java.nio.ByteBuffer
import kotlin.math.abs

@RunWith(RobolectricTestRunner::class)
class BitmapsTest {
    /** Red, green, blue, alpha as a bitmap of this machine has them: a phone's are in this order, a computer's may not be. */
    private fun Bitmap.put(rgba: ByteArray) {
        val probe = Bitmap.createBitmap(1, 1, Bitmap.Config.ARGB_8888).apply { eraseColor(Color.RED) }
        val isSwapped = ByteBuffer.allocate(4).also(probe::copyPixelsToBuffer).array()[0] != (-1).toByte()
        val order = if (isSwapped) listOf(2, 1, 0, 3) else listOf(0, 1, 2, 3)
        copyPixelsFromBuffer(ByteBuffer.wrap(ByteArray(rgba.size) { rgba[it / 4 * 4 + order[it % 4]] }))
    }

    /** Every colour byte at every alpha, premultiplied as Android keeps it. */
    private val allAlphas = ByteArray(256 * 256 * 4) { at ->
        val alpha = at / 4 / 256
        (if (at % 4 == 3) alpha else (at / 4 % 256 + 85 * (at % 4)) % 256 * alpha / 255).toByte()
    }

    @Test
    fun `premultiplied alpha over white is the colour and what white is left`() {
        val bitmap = Bitmap.createBitmap(256, 256, Bitmap.Config.ARGB_8888).apply { put(allAlphas) }
        val expected = ByteArray(256 * 256 * 3) { at ->
            (allAlphas[at / 3 * 4 + at % 3] + 255 - (allAlphas[at / 3 * 4 + 3].toInt() and 255)).toByte()
        }
        assertPixels("premultiplied", expected, Image.of(bitmap))
    }

    @Test
    fun `straight alpha is as the core lays it over white`() {
        val straight = ByteArray(256 * 256 * 4) { at ->
            (if (at % 4 == 3) at / 4 / 256 else at / 4 * (at % 4 + 1) % 256).toByte()
        }
        val bitmap = Bitmap.createBitmap(256, 256, Bitmap.Config.ARGB_8888).apply { isPremultiplied = false }
        bitmap.put(straight)
        assertPixels("straight", flatten(straight, 256, 256).pixels, Image.of(bitmap))
    }

    @Test
    fun `every config is read`() {
        val source = Bitmap.createBitmap(300, 500, Bitmap.Config.ARGB_8888) // several bands of rows
        for (y in 0 until 500) for (x in 0 until 300) {
            source.setPixel(x, y, Color.rgb(x * 255 / 299, y * 255 / 499, (x + y) % 256))
        }
        val exact = bytesOf(Image.of(source))
        val configs = mapOf(Bitmap.Config.RGB_565 to 8, Bitmap.Config.RGBA_F16 to 0, Bitmap.Config.ARGB_8888 to 0)
        for ((config, tolerance) in configs) {
            assertPixels("$config", exact, Image.of(source.copy(config, false)), tolerance)
        }
        val mask = Bitmap.createBitmap(2, 1, Bitmap.Config.ALPHA_8)
        mask.copyPixelsFromBuffer(ByteBuffer.wrap(byteArrayOf(0, 200.toByte())))
        assertArrayEquals(byteArrayOf(-1, -1, -1, 55, 55, 55), bytesOf(Image.of(mask))) // black where it covers
    }

    /** Robolectric says that such a copy is one of hardware, or gives one of memory: either is read. */
    @Test
    fun `a hardware bitmap is read`() {
        val source = Bitmap.createBitmap(3, 2, Bitmap.Config.ARGB_8888).apply { eraseColor(Color.rgb(1, 2, 3)) }
        val hardware = source.copy(Bitmap.Config.HARDWARE, false)
        assertEquals(listOf(1, 2, 3), Image.of(hardware).at(2, 1))
        assertFalse(hardware.isRecycled)
    }

    @Test
    fun `other colour spaces become sRGB`() {
        val space = ColorSpace.get(ColorSpace.Named.DISPLAY_P3)
        // Display P3 -> sRGB by the published matrices, computed with NumPy.
        for ((p3, srgb) in P3) {
            val bitmap = Bitmap.createBitmap(1, 1, Bitmap.Config.ARGB_8888, false, space)
            bitmap.put(byteArrayOf(p3[0].toByte(), p3[1].toByte(), p3[2].toByte(), -1))
            val found = Image.of(bitmap).at(0, 0)
            assertTrue("$p3 -> $found, not $srgb", found.zip(srgb).all { (one, other) -> abs(one - other) <= 1 })
        }
    }

    @Test
    fun `one pixel is enough, and a copy is kept`() {
        val bitmap = Bitmap.createBitmap(1, 1, Bitmap.Config.ARGB_8888).apply { eraseColor(Color.RED) }
        val image = Image.of(bitmap)
        bitmap.recycle()
        assertEquals(listOf(255, 0, 0), image.at(0, 0))
    }

    @Test
    fun `a recycled bitmap, and one that is too large, are refused`() {
        val bitmap = Bitmap.createBitmap(2, 2, Bitmap.Config.ARGB_8888).apply { recycle() }
        assertTrue("recycled" in checkNotNull(assertThrows(ImageUnusable::class.java) { Image.of(bitmap) }.message))
        val large = Bitmap.createBitmap(12000, 9000, Bitmap.Config.ALPHA_8)
        assertThrows(ImageUnusable::class.java) { Image.of(large) }
        large.recycle()
    }

    @Test
    fun `too little memory is a typed error`() {
        val error = assertThrows(NoMemory::class.java) { withMemoryFor(4000, 3000) { throw OutOfMemoryError() } }
        assertEquals(36_000_000L, error.needed)
        assertTrue(error.free > 0)
        assertThrows(NoMemory::class.java) { unusableIfDamaged { throw OutOfMemoryError() } }
    }

    private companion object {
        val P3 = mapOf(
            listOf(200, 100, 50) to listOf(215, 93, 31),
            listOf(90, 120, 110) to listOf(81, 121, 110),
            listOf(255, 0, 0) to listOf(255, 0, 0),
            listOf(128, 128, 128) to listOf(128, 128, 128),
            listOf(10, 250, 130) to listOf(0, 255, 115),
        )
    }
}
