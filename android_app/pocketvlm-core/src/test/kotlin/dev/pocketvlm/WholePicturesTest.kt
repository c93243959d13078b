package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.ImageUnusable
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** Bundles whose pictures have their own resolution; that answers are right is `AnswerTest`'s. */
class WholePicturesTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val short = GenerationConfig(maxNewTokens = 6)

    private fun cases(family: String): List<Case> = lines("questions.jsonl").filter { File(it.text("bundle")).name == family }

    @Test
    fun `a conversation is saved and goes on at the positions where it was`() {
        for (family in FAMILIES) {
            val case = cases(family)[0]
            val files = listOf(true, false).map { File(folder.root, "$family-$it") }
            val wanted = withModel(File(case.text("bundle"))) { model ->
                val chat = model.chat()
                chat.addImage(picture(case))
                chat.ask(case.text("question"), short)
                for ((file, withCache) in files.zip(listOf(true, false))) chat.save(file, withCache)
                chat.ask("What else is there?", short)
            }
            withModel(File(case.text("bundle")), Options(threads = 1, keepVision = false)) { model ->
                for (file in files) assertEquals(wanted.tokenIds, model.restore(file).ask("What else is there?", short).tokenIds)
            }
        }
    }

    @Test
    fun `a preview has a token a tile, and what is too narrow is refused`() {
        val case = cases("qwen2_5_vl")[0]
        withModel(File(case.text("bundle"))) { model ->
            val image = picture(case)
            val tiling = model.preview(image.width, image.height)
            assertEquals(tiling.tiles, tiling.tokens)
            assertEquals(tiling.tokens, model.ask("What?", listOf(image), short).stats.imageTokens)
            assertRefused<ImageUnusable> { model.ask("What?", listOf(Image.rgb(ByteArray(3 * 201), 201, 1)), short) }
        }
    }

    @Test
    fun `what is planted in a manifest is seen in the answers`() {
        for ((family, said, instead) in listOf(
            Triple("qwen2_5_vl", "\"rope_theta\": 10000.0", "\"rope_theta\": 3.0"),
            Triple("qwen2_vl", "\"rope_theta\": 10000.0", "\"rope_theta\": 3.0"),
            Triple("qwen3_vl", "\"interleaved\": true", "\"interleaved\": false"),
            Triple("lfm2_vl", "\"part\": 4", "\"part\": 3"),
            Triple("gemma4", "\"rope_theta\": 100.0", "\"rope_theta\": 3.0"),
            Triple("minicpmv", "\"between\": \"\\n\"", "\"between\": \" \""),
        )) {
            val asked = cases(family).filter { it.double("temperature") == 0.0 }
            val found = withModel(changed(asked[0], said, instead)) { model ->
                asked.map { model.ask(it.text("question"), listOf(picture(it)), configOf(it)).tokenIds }
            }
            assertNotEquals("$family $instead", asked.map { it.ints("ids") }, found)
        }
    }

    @Test
    fun `a manifest that says other sizes than the graphs have is refused at load`() {
        val changes = listOf(Regex("\"head_dim\": (\\d+),\\s+\"rope_theta\"") to "a head", Regex("\"window\": (\\d+)") to "a window")
        for ((pattern, what) in changes) {
            val case = cases("qwen2_5_vl")[0]
            val text = File(case.text("bundle"), "manifest.json").readText()
            val match = checkNotNull(pattern.find(text)) { what }
            val other = match.value.replace(match.groupValues[1], "${match.groupValues[1].toInt() * 2}")
            val bundle = changed(case, match.value, other)
            val error = runCatching { withModel(bundle) {} }.exceptionOrNull()
            assertTrue("$what: $error", error is BundleDamaged && error.message!!.endsWith("is not what the manifest says"))
        }
    }

    private fun changed(case: Case, said: String, instead: String): File {
        val bundle = folder.newFolder()
        File(case.text("bundle")).copyRecursively(bundle, overwrite = true)
        val manifest = File(bundle, "manifest.json")
        val text = manifest.readText()
        assertTrue(said, text.contains(said))
        manifest.writeText(text.replace(said, instead))
        return bundle
    }

    private companion object {
        /**
         * With windows, without, with a table and rows for the decoder's first layers, in parts with convolutions, with states,
         * with rows beside embeddings and layers that read another's cache, and in slices.
         */
        val FAMILIES = listOf("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "lfm2_vl", "qwen3_5", "gemma4", "minicpmv", "minicpmv4_6")
    }
}
