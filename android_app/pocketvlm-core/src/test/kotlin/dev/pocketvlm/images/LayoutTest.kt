package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.bundle.ImageLayout
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

class LayoutTest {
    @Test
    fun `image tokens stand where Python puts them`() {
        val golden = Case(golden("image_tokens.json"))
        val layouts = Case(golden["layouts"])
        holdTo(golden.cases("cases"), "ids") { case ->
            val layout = layoutOf(Case(layouts[case.text("layout")]))
            val thumbnail = case.intOrNull("thumbnail_index")
            val grid = gridOf(case["grid"])
            val alike = List(grid.tiles.toInt() + 1) { golden.int("tokens_per_tile") }
            val tokens = case["tokens"]?.let(::ids) ?: alike
            val pieces = laidOut(layout, grid, thumbnail, tokens, case.intOrNull("packed"), case.intOrNull("number") ?: 0)
            listOf(pieces.flatMap { piece -> piece.ids + List(piece.tokens) { -1 } })
        }
    }

    @Test
    fun `behind the last number an image is refused in Python's words`() {
        val golden = Case(golden("image_tokens.json"))
        val layout = layoutOf(Case(Case(golden["layouts"])["MiniCPM-V"]))
        val count = checkNotNull(layout.numbers).size
        val error = assertThrows(ChatInvalid::class.java) { laidOut(layout, gridOf(listOf(1L, 1L)), null, listOf(2), number = count) }
        assertEquals("this bundle has numbers for $count images of a conversation, not for more", error.message)
    }

    @Test
    fun `packed tokens keep what Python keeps`() {
        val cases = (golden("packing.json") as List<*>).map { Case(it) }
        holdTo(cases, "corner", "kept", "shown", "tokens") { case ->
            val most = case.intOrNull("most_tiles")
            val plan = packed(sizeOf(case["size"]), gridOf(case["grid"]), case.int("side"), most)
            val pair = { size: Size -> listOf(size.width, size.height) }
            listOf(listOf(plan.left, plan.top), pair(plan.kept), pair(plan.size), plan.tokens)
        }
    }

    @Test
    fun `packed tokens are Python's to the bit`() {
        val golden = Case(golden("packed_tokens.json"))
        val hidden = golden.int("hidden")
        holdTo(golden.cases("cases"), "tokens", "sha256") { case ->
            val side = case.int("side")
            val grid = gridOf(case["grid"])
            val plan = packed(sizeOf(case["size"]), grid, side, case.intOrNull("most_tiles"))
            val given = FloatArray((grid.tiles.toInt() + 1) * side * side * hidden) { i -> (37 * i + i / 7) % 101 / 8f - 6f }
            val found = pack(given, plan, FloatArray(hidden) { it - 100f })
            val bytes = ByteBuffer.allocate(4 * found.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asFloatBuffer().put(found)
            val digest = MessageDigest.getInstance("SHA-256").digest(bytes.array())
            listOf(found.size / hidden, hexadecimal(digest))
        }
    }

    @Test
    fun `packed tokens are the thumbnail's, then the rows', each with its end`() {
        // 2 x 1 tiles of 2 x 2 tokens of one number each; half of the picture's height is padding
        val plan = packed(Size(400, 100), dev.pocketvlm.bundle.Grid(2, 1), 2, null)
        val tokens = FloatArray(12) { it.toFloat() }
        val wanted = floatArrayOf(0f, 1f, 2f, 3f, 4f, 5f, 8f, 9f, -1f, 6f, 7f, 10f, 11f, -1f)
        assertArrayEquals(wanted, pack(tokens, plan, floatArrayOf(-1f)), 0f)
        val half = pack(tokens, packed(Size(200, 100), dev.pocketvlm.bundle.Grid(2, 1), 2, 1), floatArrayOf(-1f))
        // 4 x 2 tokens as 2 x 1: columns 0 1 | 2 3 and both rows are mixed in equal parts
        assertArrayEquals(floatArrayOf(0f, 1f, 2f, 3f, 5.5f, 9.5f, -1f), half, 1e-6f)
    }

    private fun layoutOf(case: Case) = ImageLayout(
        case.ints("image_start"),
        case.ints("thumbnail"),
        case.list("tile").map { row -> (row as List<*>).map { ids(it) } },
        case.ints("row_end"),
        case.ints("image_end"),
        case["lone"]?.let(::ids),
        case["last_row_end"]?.let(::ids),
        case["tile_end"]?.let(::ids),
        case["thumbnail_end"]?.let(::ids),
        (case["numbers"] as List<*>?)?.map(::ids),
    )

    private fun ids(value: Any?): List<Int> = (value as List<*>).map { (it as Long).toInt() }
}
