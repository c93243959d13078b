package dev.pocketvlm.android

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.content.res.AssetFileDescriptor
import android.database.Cursor
import android.graphics.ImageDecoder
import android.net.Uri
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.NoMemory
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer

@RunWith(RobolectricTestRunner::class)
class PicturesTest {
    private val context: Context = RuntimeEnvironment.getApplication()
    private val uri: Uri = Uri.parse("content://pictures/1")

    private fun served(open: () -> InputStream): Image {
        shadowOf(context.contentResolver).registerInputStreamSupplier(uri) { open() }
        return Image.of(context, uri)
    }

    @Test
    fun `pictures have Pillow's pixels, upright, over white`() {
        val readable = pictures().filter { !it.isRefused }
        assertTrue(readable.size > 40)
        for (one in readable) {
            val bytes = one.file.readBytes()
            val every = mapOf(
                "bytes" to Image.encoded(bytes),
                "decoder" to Image.of(ImageDecoder.createSource(ByteBuffer.wrap(bytes))),
                "Android 8" to factoryDecoded(bytes, 1 shl 24),
                "Uri" to served { bytes.inputStream() },
            )
            for ((way, image) in every) {
                if (way == "decoder" && "turned" in one.name && ".png" in one.name) continue // as its documentation says
                assertEquals("${one.name}, $way", one.width to one.height, image.width to image.height)
                assertPixels("${one.name}, $way", one.rgb, image, one.tolerance)
            }
        }
    }

    @Test
    fun `what is no picture, cut or a bomb is refused`() {
        val refused = pictures().filter { it.isRefused }
        assertTrue(refused.size >= 10)
        for (one in refused) {
            val bytes = one.file.readBytes()
            val ways = listOf(
                { Image.encoded(bytes) },
                { served { bytes.inputStream() } },
                { Image.of(ImageDecoder.createSource(ByteBuffer.wrap(bytes))) },
            ) + if ("cut" in one.name) emptyList() else listOf({ factoryDecoded(bytes, 1 shl 24) })
            for (way in ways) {
                val error = assertThrows(one.name, ImageUnusable::class.java) { way() }
                assertTrue(checkNotNull(error.message).lines().size == 1)
            }
        }
    }

    @Test
    fun `a picture of 12,000 x 9,000 is decoded at a quarter of its sides`() {
        val bytes = cases().resolve("large.png").readBytes()
        for (image in listOf(Image.encoded(bytes), factoryDecoded(bytes, 1 shl 24))) {
            assertEquals(3000 to 2250, image.width to image.height)
            assertEquals(listOf(255, 255, 255), image.at(2999, 1000))
            assertEquals(listOf(0, 0, 0), image.at(0, 1200))
        }
        assertEquals(1500 to 1125, Image.encoded(bytes, mostPixels = 2_000_000).let { it.width to it.height })
    }

    @Test
    fun `sizes are refused or halved before memory is taken`() {
        assertEquals(1, sampleOf(4096, 4096, "image/png", 1 shl 24))
        assertEquals(2, sampleOf(4097, 4096, "image/png", 1 shl 24))
        assertEquals(4, sampleOf(60000, 10, "image/png", 1 shl 24)) // 16,384 a side
        assertEquals(4, sampleOf(16320, 12240, "image/jpeg", 1 shl 24)) // 200 megapixels of a phone
        assertThrows(RefusedSize::class.java) { sampleOf(16320, 12240, "image/png", 1 shl 24) }
        assertThrows(RefusedSize::class.java) { sampleOf(Int.MAX_VALUE, Int.MAX_VALUE, "image/jpeg", 1 shl 24) }
        assertThrows(IllegalArgumentException::class.java) { Image.encoded(ByteArray(1), mostPixels = 0) }
    }

    @Test
    fun `a Uri that gives no picture is refused with the reason`() {
        val cases = mapOf<String, () -> InputStream>(
            "FileNotFound" to { throw FileNotFoundException("gone FileNotFound") },
            "Permission" to { throw SecurityException("Permission Denial: reading it") },
            "a provider's bug" to { throw IllegalStateException("a provider's bug") },
            "cut off" to { Broken() },
            "bytes" to { Endless() },
        )
        for ((said, open) in cases) {
            val error = assertThrows(said, ImageUnusable::class.java) { served(open) }
            assertTrue("${error.message}", checkNotNull(error.message).let { said in it && "content://pictures/1" in it })
        }
        assertThrows(NoMemory::class.java) { served { throw OutOfMemoryError() } }
        Robolectric.setupContentProvider(Mute::class.java, "mute")
        val mute = assertThrows(ImageUnusable::class.java) { Image.of(context, Uri.parse("content://mute/1")) }
        assertTrue("${mute.message}", "gives nothing" in checkNotNull(mute.message))
        val missing = Uri.fromFile(File("/nowhere/at/all.png"))
        assertThrows(ImageUnusable::class.java) { Image.of(context, missing) }
        assertThrows(ImageUnusable::class.java) { Image.of(context, Uri.parse("")) }
    }

    @Test
    fun `a file that is too long is refused before it is decoded`() {
        assertTrue("bytes" in checkNotNull(assertThrows(ImageUnusable::class.java) { Image.encoded(ByteArray((64 shl 20) + 1)) }.message))
    }

    /** A provider that knows the Uri and opens nothing. */
    internal class Mute : ContentProvider() {
        override fun onCreate(): Boolean = true

        override fun openAssetFile(uri: Uri, mode: String): AssetFileDescriptor? = null

        override fun query(uri: Uri, names: Array<String>?, where: String?, given: Array<String>?, order: String?): Cursor? = null

        override fun getType(uri: Uri): String? = null

        override fun insert(uri: Uri, values: ContentValues?): Uri? = null

        override fun delete(uri: Uri, where: String?, given: Array<String>?): Int = 0

        override fun update(uri: Uri, values: ContentValues?, where: String?, given: Array<String>?): Int = 0
    }

    private class Endless : InputStream() {
        override fun read(): Int = 7

        override fun read(bytes: ByteArray, offset: Int, count: Int): Int = count
    }

    private class Broken : InputStream() {
        override fun read(): Int = throw IOException("cut off")
    }
}
